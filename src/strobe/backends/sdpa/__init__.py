"""torch's own attention kernel: what runs on a CPU when the compiled library is missing."""
