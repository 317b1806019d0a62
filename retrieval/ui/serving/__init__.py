"""What a public page needs."""
