"""The files that this package writes and reads: safetensors, checked before anything in them is believed."""
