"""What rules for projectors read, and the matrices they count."""

from __future__ import annotations

from kvplan.specs.huggingface.config import Config


class Around:
    """Numbers of the whole model's file, or of its tower's section."""

    def __init__(self, config: Config, tower: Config) -> None:
        self.whole = Config(config.top, {}, config.path)
        self.tower = tower

    def count(self, key: str, default: int) -> int:
        found = self.whole.optional(key)
        return int(found or self.tower.optional(key) or default)

    def patches(self, *keys: str) -> int:
        """Patches side by side that become one token: a side squared, or a list's product."""
        for key in keys:
            value = self.tower.data.get(key, self.whole.data.get(key))
            if isinstance(value, list) and len(value) == 2:
                rows, columns = (Config({key: side}, {}, self.whole.path).count(key) for side in value)
                return rows * columns
            if value is not None:
                side = Config({key: value}, {}, self.whole.path).number(key) or 1.0
                side = min(max(side, 1e-6), 1e6)
                side = 1 / side if side < 1 else side
                return max(int(side) ** 2, 1)
        return 4

    def taps(self) -> int:
        """Layers of the tower whose outputs are handed over side by side."""
        keys = ("vision_feature_layers", "vision_feature_layer")
        listed = next((self.whole.data[key] for key in keys if key in self.whole.data), None)
        return max(len(listed), 1) if isinstance(listed, list) else 1


def dense(inner: int, out: int, biased: bool = True) -> int:
    """Parameters of a matrix from ``inner`` to ``out`` channels."""
    return out * (inner + biased)


def two(inner: int, between: int, out: int, biased: bool = True) -> int:
    """Two matrices with a width between."""
    return dense(inner, between, biased) + dense(between, out, biased)
