"""Results of sweeps, made by hand."""

from typing import Any


def point(values, nc, null, *, true=1.0, scheme="null-embedding", images=1000) -> dict[str, Any]:
    """A point's entry: its values, NC, and null or None."""
    return {
        "name": ",".join(f"{field}={value}" for field, value in values.items()),
        "values": values,
        "scheme": scheme,
        "metrics": {
            "images": images,
            "normal_accuracy": nc,
            "null_accuracy": null,
            "null_agreement": null,
            "true_accuracy": true,
            "verified": null is None or null > 0.8,
        },
    }


def result_of(points, axis="loss.inject_ratio", groups=(), dead=None) -> dict[str, Any]:
    """What result.json of a sweep holds."""
    return {
        "experiment": "sweep",
        "task": "digit",
        "seed": 0,
        "metrics": {
            "axis": axis,
            "groups": list(groups),
            "threshold": 0.8,
            "points": points,
            "dead": dead or {},
        },
        "paper": {},
        "environment": {
            "command": "python -m nullmark_jax.sweep --config=configs/sweeps/inject_ratio.py:digit",
            "commit": "1234567",
            "date": "2026-11-26",
            "device": "1 x cpu",
            "cpus": 2,
            "jax": "0.10.2",
        },
        "seconds": 240.0,
    }
