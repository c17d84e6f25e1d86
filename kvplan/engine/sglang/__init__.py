"""SGLang's engine: radix cache, scheduler, event loop; ``reference.sglang`` is its oracle."""
