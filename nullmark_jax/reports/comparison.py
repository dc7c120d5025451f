"""The table of schemes: null embedding beside the designs before it, by what each keeps and how each falls.

Made from the committed results of one task. Of grids of attackers that differ between schemes only those that
all of them met are counted, but for the strongest pirate, who is of each scheme's own grid.

An interval is given where the units are draws of something random: owners, pirates, others' marks on one
model. Owners times a fixed list of attackers or of marks are no such draws, and are counted alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from nullmark_jax import verification
from nullmark_jax.experiments import fine_tuning, piracy_tables
from nullmark_jax.experiments.measuring import at_own_threshold, mean_and_spread, ruined
from nullmark_jax.reports.table import Table, many, percent

Result = dict[str, Any]
# Of each scheme what an experiment found, None where it was not made; to a cell each.
Row = Callable[[Sequence[Result | None]], list[str]]

# Each scheme's title, and the variant of its results.
SCHEMES = (
    ("null embedding", ""),
    ("Adi et al., 100 images", "adi"),
    ("Adi et al., into a finished model", "adituned"),
    ("Zhang et al., a text", "zhang"),
)

# What a stolen model may lose of NC and still be worth having, as a fraction.
_USEFUL = 0.05


def counted(k: int, n: int) -> str:
    """Returns "k of n" with the exact 95% interval of the share, in percent; "" of none."""
    if not n:
        return ""
    low, high = verification.clopper_pearson(k, n)
    return f"{k} of {n} ({100 * low:.3g} to {100 * high:.3g}%)"


def _each(cell: Callable[[dict[str, Any]], str]) -> Row:
    """Returns the row of cells that depend on one scheme's metrics each."""
    return lambda results: ["" if each is None else cell(each["metrics"]) for each in results]


def _common(results: Sequence[Result | None], names: Callable[[Any], list[Any]]) -> set[Any]:
    """Returns what `names` finds in all results that there are."""
    found = [set(names(each["metrics"])) for each in results if each is not None]
    return set.intersection(*found) if found else set()


def crossed(k: int, n: int, owners: int) -> str:
    """Returns "k of n" and what n is, owners times attacks; "" of none."""
    return f"{k} of {n} ({owners} x {n // owners})" if n else ""


def _false_positives(metrics: dict[str, Any]) -> str:
    parts = []
    for kind, watermarked in (("marked", True), ("free", False)):
        some = [each for each in metrics["models"] if each["watermarked"] is watermarked]
        rates = [at_own_threshold(each) for each in some]
        passed, tried = sum(r["passed"] for r in rates), sum(r["of"] for r in rates)
        # Several models meet the same marks, and of one text there is only a label each: no draws.
        drawn = len(some) == 1 and metrics.get("scheme") != "zhang-content"
        found = counted(passed, tried) if drawn else crossed(passed, tried, len(some))
        if found:
            parts.append(f"{len(some)} {kind}: {found}")
    return "; ".join(parts)


def _piracy(name: str) -> Callable[[dict[str, Any]], str]:
    def cell(metrics: dict[str, Any]) -> str:
        part = metrics[name]
        models = len(part["pirates"])
        dead = ruined(part["pirates"])
        tried = piracy_tables.of_first_victim(metrics["grid"]["attackers"])
        which = "" if name == "later" else f" (of {len(tried)} tried)"
        accuracy = f"NC {mean_and_spread(part['pirates'], 'normal_accuracy')}"
        if dead:
            accuracy = f"not a number: {dead} of {many(models, 'model')}"
        return (
            f"{part['attacker']}{which}: pirate {counted(part['verified'], models)}, owner "
            f"{part['owner_verified']} of {models}; {accuracy}"
        )

    return cell


def _grid_piracy(metrics: dict[str, Any]) -> str:
    """Of the attackers that the grid chose, on one model, the one whose pirates verify most often."""

    def share(name: str) -> float:
        return float(metrics[name]["verified"]) / len(metrics[name]["pirates"])

    chosen = [name for name in piracy_tables.STRONGEST if name in metrics]
    return _piracy(max(chosen, key=share))(metrics)


def _papers_fine_tuning(metrics: dict[str, Any]) -> str:
    part = metrics["later"]
    models = part["models"]
    return (
        f"{fine_tuning.made(metrics)}: "
        f"{counted(part['verified'], len(models))}, "
        f"WM {mean_and_spread(models, 'owner', 'wm')}, NC {mean_and_spread(models, 'normal_accuracy')}"
    )


def _other_fine_tuning(results: Sequence[Result | None]) -> list[str]:
    names = _common(results, lambda metrics: [each["name"] for each in metrics["grid"]])

    def cell(metrics: dict[str, Any]) -> str:
        some = [each for each in metrics["grid"] if each["name"] in names]
        return crossed(
            sum(each["verified"] for each in some),
            sum(len(each["models"]) for each in some),
            len(metrics["before"]["models"]),
        )

    return _each(cell)(results)


def _pruning(metrics: dict[str, Any]) -> str:
    """Of each way to prune, in how many models it takes the mark and leaves NC."""
    found = []
    for each in metrics["highest"]:
        if each["attack"].startswith(("neurons", "weights")):
            lost = [model for model in each["models"] if model is not None]
            near = [model for model in lost if model["lost"] <= metrics["acceptable_loss"]]
            found.append(f"{each['attack']}: {len(near)} of {len(each['models'])}")
    return "; ".join(found)


def _fine_pruning(results: Sequence[Result | None]) -> list[str]:
    def key(each: dict[str, Any]) -> tuple[Any, ...]:
        return each["order"], each["ratio"], each["learning_rate"]

    keys = _common(results, lambda metrics: [key(each) for each in metrics["fine_pruning"]])

    def cell(metrics: dict[str, Any]) -> str:
        some = [each for each in metrics["fine_pruning"] if key(each) in keys]
        verified = [bool(one) for each in some for one in each["verified"]]
        return crossed(sum(verified), len(verified), len(metrics["before"]["models"]))

    return _each(cell)(results)


def _rounded(metrics: dict[str, Any]) -> str:
    parts = [
        f"{each['format']}: {sum(map(bool, each['verified']))} of {len(each['verified'])}"
        for each in metrics["quantised"]
    ]
    return "; ".join(parts)


def _neural_cleanse(metrics: dict[str, Any]) -> str:
    marked = [each for each in metrics["models"] if each["watermarked"]]
    if any(each["target"] is None for each in marked):
        some = sum(bool(each["modes"]["bounded"]["flagged"]) for each in marked)
        return f"has no one label; some label in {some} of {len(marked)}"
    found = [each["target"] in each["modes"]["bounded"]["flagged"] for each in marked]
    return counted(sum(found), len(found))


def _extraction(results: Sequence[Result | None]) -> list[str]:
    def key(each: dict[str, Any]) -> tuple[Any, ...]:
        return each["source"], each["answers"], each["images"]

    keys = _common(results, lambda metrics: [key(each) for each in metrics["substitutes"]])

    def cell(metrics: dict[str, Any]) -> str:
        some = [each for each in metrics["substitutes"] if key(each) in keys]
        models = [model for each in some for model in each["models"]]
        if not models:
            return ""
        best = max(models, key=lambda model: model["normal_accuracy"])
        victims = [each["normal_accuracy"] for each in metrics["before"]]
        least = sum(victims) / len(victims) - _USEFUL
        useful = [model for model in models if model["normal_accuracy"] >= least]
        verified = sum(bool(model["verifies"]) for model in useful)
        found = crossed(verified, len(useful), len(victims)) or "none is that good"
        return (
            f"{found}; the best: NC {percent(best['normal_accuracy'])}, WM "
            f"{percent(best['owner']['wm'])}"
        )

    return _each(cell)(results)


def _transfer(metrics: dict[str, Any]) -> str:
    ways = [each["watermarked"] for each in metrics["ways"]]
    models = [len(each["models"]) for each in ways]
    recovered = crossed(sum(each["verified"] for each in ways), sum(models), models[0])
    # What is recovered depends on it: schemes by different ones are not to be compared.
    return f"{recovered}, by {metrics['optimizer']}"


def _filters(metrics: dict[str, Any]) -> str:
    some = [each for each in metrics["filters"] if each["name"] != "none"]
    verified = [model["verified"] for each in some for model in each["models"]]
    return crossed(sum(verified), len(verified), len(some[0]["models"]))


# What a row is called, which experiments it is made from (the first that a scheme has), and how.
_ROWS: tuple[tuple[str, tuple[str, ...], Row], ...] = (
    (
        "others' marks that verify at the task's T",
        ("false_positives", "trigger_false_positives"),
        _each(_false_positives),
    ),
    ("piracy by the later paper's attacker", ("piracy",), _each(_piracy("later"))),
    ("piracy by the attacker found whose pirates verify most", ("piracy",), _each(_grid_piracy)),
    ("owners verified after the papers' fine-tuning", ("fine_tuning",), _each(_papers_fine_tuning)),
    ("after other fine-tuning", ("fine_tuning",), _other_fine_tuning),
    ("pruning that takes the mark at NC at most 5 points lower", ("pruning",), _each(_pruning)),
    ("owners verified after fine-pruning", ("pruning",), _fine_pruning),
    ("after rounding the weights", ("pruning",), _each(_rounded)),
    ("Neural Cleanse flags the owner's label", ("neural_cleanse",), _each(_neural_cleanse)),
    (
        "owners verified on extracted substitutes of at most 5 points less NC",
        ("extraction",),
        _extraction,
    ),
    (
        "recovered from students by one draw of a last layer (transfer)",
        ("transfer",),
        _each(_transfer),
    ),
    ("owners verified behind input filters", ("input_filter",), _each(_filters)),
)


class Measured(NamedTuple):
    """What is known of a scheme on a task.

    Attributes:
      title: of the scheme.
      training: the results of its owners' training.
      attacked: the results of attacks on their models, by experiment.
    """

    title: str
    training: Sequence[Result]
    attacked: Mapping[str, Result]


def table(task: str, schemes: Sequence[Measured]) -> Table:
    """Returns a task's table of schemes, a column for each.

    Args:
      task: its name.
      schemes: what is known of each.
    """
    training = [each.training for each in schemes]
    attacked = [each.attacked for each in schemes]
    rows = [
        ["owners", *(str(len(each)) if each else "" for each in training)],
        ["NC, %", *(_accuracy(each, "normal_accuracy") for each in training)],
        ["WM: the owner's mark is found, %", *(_accuracy(each, "watermark_accuracy") for each in training)],
    ]  # fmt: skip
    for title, names, row in _ROWS:
        found = [next((own[n] for n in names if n in own), None) for own in attacked]
        cells = row(found)
        if any(cells):
            rows.append([title, *(cell or "not measured" for cell in cells)])
    return Table(
        f"{task}: schemes side by side",
        ("", *(each.title for each in schemes)),
        rows,
        "k of n with an exact 95% interval (Clopper-Pearson) where owners, pirates of these owners, or "
        "others' marks on one model are drawn; k of n (owners x attacks or marks) where a list of them met "
        "each owner, which is no draw. Of grids "
        "those attackers are counted that every scheme met, but for the strongest pirate, found in each "
        "scheme's own grid. WM of triggers is the share that gets its labels. How each was measured stands "
        "in the experiments' sections.",
    )


def _accuracy(results: Sequence[Result], name: str) -> str:
    return mean_and_spread([each["metrics"] for each in results], name) if results else ""
