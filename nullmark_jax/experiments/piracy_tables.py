"""What the piracy experiment shows: its tables, its figures, its sentences."""

from typing import Any

from matplotlib.figure import Figure

from nullmark_jax.baselines import schemes
from nullmark_jax.experiments import attackers, loss_gate
from nullmark_jax.experiments.experiment import Finding, Metrics, Result
from nullmark_jax.experiments.measuring import (
    BROKEN,
    Record,
    mean,
    mean_and_spread,
    of_numbers,
    ruined,
)
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, beside_papers, many, percent

# What config.paper holds of Table 3, and after "earlier_" of Table V.
PRINTED = (
    "normal_accuracy",
    "owner_null",
    "owner_true",
    "owner_wm",
    "pirate_null",
    "pirate_true",
    "pirate_wm",
)

# The attackers that a grid chose, by their field of the metrics, with their titles.
STRONGEST = {"strongest": "strongest", "fewest": "strongest with the fewest images"}

# Of the later paper's figures; the earlier one does not say of how many its are.
_PIRATES = 100
# Of the earlier paper's attack, as its Figure 7 has it; the later one's are the task's own.
_EARLIER_EPOCHS = 100

# The most NC that Table 1's attacks on earlier designs cost, as a fraction: 3.2 points (Face).
_MINIMAL = 0.032


def tables(result: Result) -> list[Table]:
    """Returns the papers' attackers beside the strongest, and the grid."""
    metrics, paper = result["metrics"], result["paper"]
    threshold = metrics["threshold"]
    # Of these Table 1 has no null, and does not say of how many pirates it is.
    of_triggers = metrics["scheme"] in schemes.SCHEMES
    rows = []
    before = list(metrics["before"].values())
    rows.append(["before any attack", str(len(before)), *_accuracies(before), "", ""])
    for name, prefix in (("later", ""), ("earlier", "earlier_")):
        if name not in metrics:  # It attacks null embedding alone.
            continue
        part = metrics[name]
        less = (_shorter if of_triggers else _less)(name, part, result["task"])
        rows.append(_pirates_row(f"{name} paper's: {part['attacker']}{less}", part))
        printed = [paper.get(f"{prefix}{each}") for each in PRINTED]
        if f"{prefix}normal_accuracy" in paper:
            pirates = str(_PIRATES) if name == "later" and not of_triggers else ""
            rows.append([f"as the {name} paper has it", pirates, *map(percent, printed), "", ""])
        if name == "later":
            for lower in metrics.get("later_rates", ()):  # Earlier results have none.
                rows.append(
                    _pirates_row(f"the later paper's at another rate: {lower['attacker']}", lower)
                )
    for name, title in STRONGEST.items():
        if name in metrics:  # The grid may have one number of images.
            rows.append(_pirates_row(f"{title}: {metrics[name]['attacker']}", metrics[name]))
    earlier = (
        " The earlier paper's null is agreement with the model's own answer, right or wrong, and it names "
        "no optimiser: here its attacker has the later one's."
        if "earlier" in metrics
        else ""
    )
    summary = Table(
        "Before and after piracy, %: mean (lowest to highest)",
        (
            "attacker",
            "models",
            "NC",
            "owner null",
            "owner true",
            "owner WM",
            "pirate null",
            "pirate true",
            "pirate WM",
            "pirate verified",
            "owner verified",
        ),
        rows,
        f"Verified: WM passes {percent(threshold)}% of the test images, the model being finite. The "
        "strongest attacker is that of the grid below with the highest NC among those whose pirate "
        "verifies, or, where none does, with the highest pirate WM; its pirates here are others than "
        f"the grid's. A model that the attack made not a number answers class 0.{earlier}",
    )
    grid = metrics["grid"]
    best = {metrics[name]["attacker"] for name in STRONGEST if name in metrics}
    first_tried = of_first_victim(grid["attackers"])
    tried = [
        [
            f"**{each['name']}**" if each["name"] in best else each["name"],
            percent(each["normal_accuracy"]),
            *(percent(each[who][part]) for who in ("pirate", "owner") for part in ("null", "true")),
            percent(each["pirate"]["wm"]),
            "" if each["finite"] else "not a number",
        ]
        for each in sorted(first_tried, key=lambda each: -each["pirate"]["wm"])
    ]
    return [
        summary,
        Table(
            f"The grid on {first_tried[0]['victim']}: one pirate watermark, {grid['steps']} steps of "
            f"{grid['batch_size']} images, %",
            (
                "attacker",
                "NC",
                "pirate null",
                "pirate true",
                "owner null",
                "owner true",
                "pirate WM",
                "",
            ),
            tried,
            attackers.ways_note({each["way"] for each in grid["attackers"]})
            + attackers.choosing_note(metrics),
        ),
        loss_gate.table(grid["attackers"], grid["before"], metrics["scheme"], threshold),
    ]


def of_first_victim(tried: list[Record]) -> list[Record]:
    """Returns the grid's attacks on the first victim, of which the strongest one is."""
    return [each for each in tried if each["victim"] == tried[0]["victim"]]


def _accuracies(records: list[Record]) -> list[str]:
    return [
        mean_and_spread(records, *names)
        for names in (
            ("normal_accuracy",),
            ("owner", "null"),
            ("owner", "true"),
            ("owner", "wm"),
            ("pirate", "null"),
            ("pirate", "true"),
            ("pirate", "wm"),
        )
    ]


def _shorter(name: str, part: dict[str, Any], task: str = "") -> str:
    """Returns of how many more images or epochs the paper's attack is, where it is; "" else."""
    return beside_papers(*_training(name, part, task))


def _less(name: str, part: dict[str, Any], task: str = "") -> str:
    """Returns the same, and of how many more pirates its figures are."""
    pirates = [(len(part["pirates"]), _PIRATES, "pirate")] if name == "later" else []
    return beside_papers(*_training(name, part, task), *pirates)


def _training(name: str, part: dict[str, Any], task: str) -> list[tuple[int, int, str]]:
    theirs = attackers.PAPERS_IMAGES
    if (name, task) == (
        "earlier",
        "face",
    ):  # Its section VII; its section VIII has as many as of the others.
        theirs = 30_000
    numbers = [(part.get("images", theirs), theirs, "image")]  # Earlier results lack both.
    if name == "earlier":
        numbers.append((part.get("epochs", _EARLIER_EPOCHS), _EARLIER_EPOCHS, "epoch"))
    return numbers


def _pirates_row(title: str, part: dict[str, Any]) -> list[str]:
    pirates, dead = part["pirates"], ruined(part["pirates"])
    return [
        title,
        f"{len(pirates)}{f', {dead} not a number' if dead else ''}",
        *_accuracies(pirates),
        f"{part['verified']} of {len(pirates)}",
        f"{part['owner_verified']} of {len(pirates)}",
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Returns Figure 4 (the later paper's attacker), Figure 7 (the earlier's), and the strongest's."""
    metrics = result["metrics"]
    parts = dict(metrics)
    titles = {name: f"the {name} paper's attacker" for name in ("later", "earlier")}
    if metrics.get("later_rates"):
        best = max(metrics["later_rates"], key=lambda each: mean(each["pirates"], "pirate", "wm"))
        parts["rates"] = metrics["later"] | best
        titles["rates"] = f"the later paper's attacker at rate {best['learning_rate']:g}"
    drawn = {}
    for name in ("later", "rates", "earlier", *STRONGEST):
        if name not in parts:
            continue
        part = parts[name]
        curve = next(each["curve"] for each in part["pirates"] if "curve" in each)
        x = ("steps", "training steps")
        if "epochs" in part:  # The papers' axis; earlier results do not say.
            curve, x = curves.in_epochs(curve, part["epochs"]), ("epochs", "epochs")
        drawn[f"piracy-{name}"] = curves.curves_figure(
            curve,
            x=x,
            lines=(
                curves.Line("NC", ("normal_accuracy",)),
                curves.Line("owner WM", ("owner", "wm")),
                curves.Line("pirate WM", ("pirate", "wm")),
                curves.Line("pirate null", ("pirate", "null")),
                curves.Line("pirate true", ("pirate", "true")),
            ),
            title=titles.get(name, part["attacker"]),
            threshold=metrics["threshold"],
            claims=_printed(result["paper"], name),
        )
    return drawn


def _printed(paper: dict[str, float], name: str) -> dict[str, float]:
    """Returns what a paper prints after its attack, for the first lines of `draw`; {} where nothing."""
    prefix = {"later": "", "earlier": "earlier_"}.get(name, "none_")
    lines = {"NC": "normal_accuracy", "owner WM": "owner_wm", "pirate WM": "pirate_wm"}
    if not all(f"{prefix}{field}" in paper for field in lines.values()):
        return {}
    return {f"{line}, the paper's": paper[f"{prefix}{field}"] for line, field in lines.items()}


_NONE_GETS_IN = "No pirate gets a second mark in and leaves the model whole (both papers)"
_CAUSE = (
    "How they train. With logits, plain SGD at the papers' rate ends in models of NaN; at a fiftieth of it, "
    "or with Adam, it does not, and can get in. With the clipped loss nothing is embedded at the papers' "
    "extreme value, but where lambda rises from 1 or in the pattern's null space. Tested by rate and extreme "
    "value ({stability}) and by loss and way to train (the grid, {piracy})."
)


def _of_triggers(metrics: Metrics) -> list[Finding]:
    """Returns what the later paper says of earlier designs (Table 1), and what was found."""

    def left(part: Metrics) -> str:
        pirates = part["pirates"]
        return (
            f"({part['attacker']}) leaves NC at {mean_and_spread(pirates, 'normal_accuracy')}, the owner's "
            f"triggers at {mean_and_spread(pirates, 'owner', 'true')} and their own at "
            f"{mean_and_spread(pirates, 'pirate', 'true')}; their claim verifies in {part['verified']} of "
            f"{len(pirates)}, the owner's in {part['owner_verified']}{of_numbers(pirates)}."
        )

    later = metrics["later"]
    before = mean(list(metrics["before"].values()), "normal_accuracy")
    lost = before - mean(later["pirates"], "normal_accuracy")
    return [
        Finding(
            f"A second {metrics['scheme']} mark is recognised and costs little NC, the later paper says; "
            f"its attacker{_shorter('later', later)} {left(later)}",
            # A training that diverges says nothing of what was to be embedded.
            None
            if _shorter("later", later) or ruined(later["pirates"]) == len(later["pirates"])
            else later["verified"] == len(later["pirates"]) and lost <= _MINIMAL,
            claim="A second mark is recognised at little cost (later paper)",
            brief=_in(later),
        ),
        Finding(f"The strongest attacker tried {left(metrics['strongest'])}"),
    ]


def _at_rates(metrics: Metrics, before: float) -> list[Finding]:
    """Returns what the later paper's attacker does at other rates, where such were tried."""
    parts = metrics.get("later_rates", ())
    if not parts:
        return []
    found = [
        f"at {part['learning_rate']:g} NC is {mean_and_spread(part['pirates'], 'normal_accuracy')}, the "
        f"pirate's claim verifies in {part['verified']} and the owner's in {part['owner_verified']} of "
        f"{len(part['pirates'])}{of_numbers(part['pirates'])}"
        for part in parts
    ]
    counts = [_whole(part, metrics, before) for part in parts]
    most = max(counts)
    best = parts[counts.index(most)]
    return [
        Finding(
            "The later paper's attacker, else unchanged, at other learning rates (no second watermark "
            f"without a broken model, both papers say): {'; '.join(found)}.",
            # That none of some rates lets a pirate in does not say that none can.
            False if most else None,
            claim=_NONE_GETS_IN,
            brief=f"their SGD at {best['learning_rate']:g}: {_in(best)}",
            cause=_CAUSE,
            models=len(metrics["before"]),
        )
    ]


def _whole(part: Metrics, metrics: Metrics, before: float) -> int:
    """Returns how many pirates verify on a model that the attack left whole."""
    rule = metrics["scheme"], metrics["threshold"]
    return sum(
        loss_gate.verifies(each, *rule) and before - each["normal_accuracy"] <= BROKEN
        for each in part["pirates"]
    )


def _in(part: Metrics) -> str:
    """Returns in a few words how many pirates got in, and at what NC."""
    pirates = part["pirates"]
    found = f"pirates {part['verified']} of {len(pirates)}, owners {part['owner_verified']}"
    dead = ruined(pirates)
    if dead == len(pirates):
        return f"{found}, all NaN"
    alive = [each for each in pirates if each["finite"]]
    return f"{found}, NC {percent(mean(alive, 'normal_accuracy'))}" + (f", {dead} NaN" * bool(dead))


def verdict(result: Result) -> list[Finding]:
    """Returns what each paper says of piracy and what was found; the strongest who verify most first."""
    metrics, findings = result["metrics"], []
    if metrics["scheme"] in schemes.SCHEMES:
        return _of_triggers(metrics)
    before = mean(list(metrics["before"].values()), "normal_accuracy")

    def lost(part: dict[str, Any]) -> float:
        return before - mean(part["pirates"], "normal_accuracy")

    for name, claim in (
        ("later", "breaks the model"),
        ("earlier", "moves neither the model nor the owner's watermark"),
    ):
        part = metrics[name]
        pirates = part["pirates"]
        broken = lost(part) > BROKEN and not part["verified"]
        unmoved = part["owner_verified"] == len(pirates) and not part["verified"]
        shorter = _shorter(name, part, result["task"])
        printed = name == "later" or "earlier_normal_accuracy" in result["paper"]
        says = "it says; here" if printed else "it says of other tasks; here"
        agrees = attackers.as_tested(
            broken if name == "later" else unmoved,
            unmoved=not broken if name == "later" else unmoved,
            images=part.get("images", attackers.PAPERS_IMAGES),
            theirs=shorter,
        )
        # A training that diverges says nothing of what was to be embedded.
        ruins_all = not any(each["finite"] for each in pirates)
        beyond = ", where theirs still answer: that says nothing of watermarks" * ruins_all
        findings.append(
            Finding(
                f"The {name} paper's attacker {claim}, {says} ({part['attacker']}"
                f"{_less(name, part, result['task'])}) NC "
                f"is {mean_and_spread(pirates, 'normal_accuracy')} afterwards, the owner's claim verifies in "
                f"{part['owner_verified']} and the pirate's in {part['verified']} of {len(pirates)}"
                f"{of_numbers(pirates)}"
                f"{beyond}.",
                agrees if printed and not ruins_all else None,
                claim=f"Their pirate {claim} ({name} paper)",
                brief=_in(part),
                models=len(metrics["before"]),
            )
        )
    tried = of_first_victim(metrics["grid"]["attackers"])
    strongest = [name for name in STRONGEST if name in metrics]
    strongest.sort(key=lambda name: -metrics[name]["verified"] / len(metrics[name]["pirates"]))
    for name in strongest:
        part = metrics[name]
        pirates = part["pirates"]
        had = sorted({each["images"] for each in tried})
        some = [each for each in tried if name != "fewest" or each["images"] == had[0]]
        images = " or ".join(map(str, had if name != "fewest" else had[:1]))
        findings.append(
            Finding(
                "A second watermark cannot be had without a broken model, both papers say; the strongest "
                f"of {many(len(some), 'attacker')} tried, chosen by a pirate on one model, of {images} "
                f"images and {metrics['grid']['steps']} steps ({part['attacker']}), leaves NC at "
                f"{mean_and_spread(pirates, 'normal_accuracy')}; their claim verifies in "
                f"{part['verified']} of {len(pirates)}, the owner's in {part['owner_verified']}.",
                # That none of some attackers got through does not say that none can.
                None if not part["verified"] else lost(part) > BROKEN,
                claim=_NONE_GETS_IN,
                brief=_in(part),
                cause=_CAUSE,
                models=len(metrics["before"]),
            )
        )
    findings += _at_rates(metrics, before)
    gate = metrics["grid"]["attackers"], metrics["scheme"], metrics["threshold"]
    return [*findings, *loss_gate.verdict(*gate)]
