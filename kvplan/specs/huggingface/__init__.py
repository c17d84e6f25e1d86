"""Any Hugging Face ``config.json`` to a ModelSpec, by rules.

Reading order: ``reader`` (the whole way), ``config`` (one configuration with its habits smoothed
out), ``layers`` (which kind each layer is), ``attention``, ``states``, ``mlps`` (what a layer consists of),
``quantization`` and ``components`` (how weights are stored), ``understood`` (what is refused), ``families``
(what no field says).
Nothing here runs code that came with a model.
"""

from __future__ import annotations

from kvplan.specs.huggingface.reader import Imported, import_config, read_config

__all__ = ["Imported", "import_config", "read_config"]
