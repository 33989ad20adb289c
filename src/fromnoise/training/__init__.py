"""Training: the loop, optimizer step, EMA, run, previews and self-evaluation."""
