"""What a public page needs: limits, uploads, shutdown, health, the search log and patches to gradio."""
