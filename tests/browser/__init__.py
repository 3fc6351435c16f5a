"""Pages as a person sees them: real servers, a real browser."""
