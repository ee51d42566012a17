"""A page in the browser that generates: what `mvdiff demo` serves. It needs the extra `demo` (Gradio)."""
