"""Models are Hugging Face transformers'; their attention is ours."""
