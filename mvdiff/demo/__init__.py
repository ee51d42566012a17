"""The web page that `mvdiff demo` serves, to generate panoramas in the browser. Requires the extra `demo` (Gradio)."""
