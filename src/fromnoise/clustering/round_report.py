"""The rounds of EM for a reader: a line of the log, tables of the report and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fromnoise.clustering.rounds import Round
from fromnoise.reporting import plots
from fromnoise.reporting.documents import Block, Table, Text

_PARTS = {"weights": "mixture weights", "moves": "split-and-merge", "training": "training", "e_step": "E-step"}
_LINEAR = 0.1  # nats up to which the axis of the changes is linear; training changes more than all else


def describe_round(found: Round) -> str:
    """A line of the log for an E-step."""
    change = f" ({found.change.value:+.3f} +- {found.change.error:.3f})" if found.change else ""
    if found.change_by:
        parts = ", ".join(f"{name} {getattr(found.change_by, k).value:+.3f}" for k, name in _PARTS.items())
        change = f"{change[:-1]}: {parts})"
    reseeded = f"; reseeded empty clusters {', '.join(map(str, found.reseeded))}" if found.reseeded else ""
    moves = "".join(f"; merged cluster {b} into {a} and split {c} into {c} and {b}" for a, b, c in found.split_merged)
    return (
        f"round {found.number}, step {found.step:,}: objective {found.objective.value:.2f} +- "
        f"{found.objective.error:.2f} nats{change}, bound {found.bound.value:.2f} +- {found.bound.error:.2f} of "
        f"{found.bound.n} images ({found.e_step_gain.value:+.3f} +- {found.e_step_gain.error:.3f} by the E-step), "
        f"{found.reassigned:.2%} of the images reassigned, mean probability {found.confidence:.3f}, smallest weight "
        f"{min(found.weights):.3f}{reseeded}{moves}"
    )


def round_tables(rounds: Sequence[dict[str, Any]], encoder_weight: float, min_time: float) -> list[Block]:
    """The rounds, and the change of the objective by its causes, each with a text that says what the numbers are.

    Args:
        rounds: ``Round.json`` of each; those of version 0.1 have neither bound nor causes.
        encoder_weight: of the objective.
        min_time: steps up to this time are in no L_c.
    """
    head = ["round", "step", "temperature", "objective", "change", "bound", "reassigned", "mean probability", "moves"]
    rows = []
    for r in rounds:
        moves = [f"reseeded {k}" for k in r["reseeded"]]
        moves += [f"merged {b} into {a}, split {c}" for a, b, c in r["split_merged"]]
        rows.append(
            [
                str(r["number"]),
                f"{r['step']:,}",
                f"{r['temperature']:.3g}",
                _value(r["objective"]),
                _change(r["change"]),
                _value(r.get("bound")),
                f"{r['reassigned']:.2%}",
                f"{r['confidence']:.3f}",
                ", ".join(moves) or "-",
            ]
        )
    blocks: list[Block] = [Text(_objective_note(encoder_weight)), Text(_bound_note(min_time)), Table(head, rows)]
    if any(r.get("e_step_gain") for r in rounds):
        parts = [r.get("change_by") or {} for r in rounds]
        causes = [
            [
                str(r["number"]),
                *(_change(part.get(k)) for k in _PARTS),
                _change(r["change"]),
                _change(r.get("e_step_gain")),
            ]
            for r, part in zip(rounds, parts, strict=True)
        ]
        head = ["round", *_PARTS.values(), "sum", "E-step, of the bound"]
        blocks += [Text(_CHANGE_NOTE), Table(head, causes)]
    return blocks


def _objective_note(encoder_weight: float) -> str:
    text = "The objective is the mean of F(q) = sum_c q_c (log pi_c - log q_c - L_c) over the images, in nats"
    if encoder_weight:
        text += (
            f", plus {encoder_weight:g} times the log-likelihood of the initial cluster. It was found from the same "
            "pixels, so this is not a lower bound on the log-likelihood of the images"
        )
    return f"{text}. Its q comes from the same estimates of L_c, which makes it too high."


def _bound_note(min_time: float) -> str:
    of = "log p(x0)" if not min_time else f"log p(x_t) at t = {min_time:g} plus the entropy of the noise"
    return (
        "The bound is F(q) of some of the images by the model alone, from diffusion steps and noise that were not used "
        f"for q: an unbiased estimate of a lower bound on the mean of {of}, with its standard error."
    )


_CHANGE_NOTE = (
    "The change of the objective since the previous round by its causes, in their order: the mixture weights, "
    "split-and-merge moves, the training of the network at constant q, and the new q. They add up to the change. The "
    "last column is the new q's part of the bound, the only one that is free of the estimates' errors. An E-step after "
    "a move takes back what the move cost: read both together."
)


def _value(estimate: dict[str, Any] | None) -> str:
    return f"{estimate['value']:.2f} ± {estimate['error'] or 0.0:.2f}" if estimate else "-"


def _change(estimate: dict[str, Any] | None) -> str:
    return f"{estimate['value']:+.3f} ± {estimate['error'] or 0.0:.3f}" if estimate else "-"


def objective_plot(rounds: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot objective and bound over the rounds, and the change of the objective by its causes.

    Error bars of the objective are standard errors of the change since the previous round, those of the parts of the
    changes paired standard errors too.

    Raises:
        UserError: the file cannot be written.
    """
    figure, (axes, changes) = plots.figure(2)
    if rounds:
        values = [r["objective"]["value"] for r in rounds]
        # the first round has no change, and the change of a single image no error
        errors = [(r["change"]["error"] if r["change"] else None) or 0.0 for r in rounds]
        axes.errorbar(
            [r["number"] for r in rounds], values, errors, marker="o", markersize=4, capsize=3, label="objective"
        )
        _errorbar(axes, [(r["number"], r.get("bound")) for r in rounds], "bound")
        axes.legend()
    for k, name in _PARTS.items():
        _errorbar(changes, [(r["number"], (r.get("change_by") or {}).get(k)) for r in rounds], name)
    _errorbar(changes, [(r["number"], r.get("e_step_gain")) for r in rounds], "E-step, of the bound")
    if changes.containers:
        changes.axhline(0, color="0.5", linewidth=0.8)
        changes.set_yscale("symlog", linthresh=_LINEAR)
        changes.legend(fontsize=8)
    axes.set(xlabel="round", ylabel="nats per image", title="EM objective and bound")
    changes.set(xlabel="round", ylabel="nats per image", title="change of the objective")
    for each in (axes, changes):
        each.xaxis.get_major_locator().set_params(integer=True)
    plots.save(figure, path)


def _errorbar(axes: Any, points: list[tuple[int, dict[str, Any] | None]], name: str) -> None:
    known = [(number, estimate["value"], estimate["error"] or 0.0) for number, estimate in points if estimate]
    if known:
        number, value, error = zip(*known, strict=True)
        axes.errorbar(number, value, error, marker="o", markersize=4, capsize=3, label=name)
