"""Images: decoding, regions, thumbnails and distortions."""
