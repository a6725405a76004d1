"""The request desk: what a person sees of requests, and the page for it."""
