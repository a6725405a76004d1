"""The metrics of classes none of whose samples remain: what is left of them behind the bias and in the features.

Each is the accuracy on their test samples, after something that an attacker with a few samples of each class can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from fastforget.auditing.best_bias import best_offsets, old_offsets, shifted, usual_offsets
from fastforget.auditing.features import Features, ModelFeatures
from fastforget.auditing.few_samples import Part, samples_of
from fastforget.auditing.finding import standard_error
from fastforget.auditing.metric import Metric
from fastforget.auditing.novel_classes import NovelClass, compare_again, compare_probes
from fastforget.auditing.probes import linear_probe, nearest_mean
from fastforget.auditing.relearning import AGAIN, again_curve
from fastforget.auditing.subjects import Subject, Subjects, compared
from fastforget.classifier.data_forms import Batches
from fastforget.classifier.predictions import Predictions, collect_predictions

__all__ = ["FEW", "KNOWN", "ClassMeasures"]

FEW, KNOWN = 10, 50  # samples of each class: for biases, means and relearning; for the linear probe


class ClassMeasures:
    """Measures what models still have of classes that are gone.

    Args:
        subjects: The models.
        gone: The classes.
        few: Batches of ten training samples of each class, these included.
        test: Batches of test data.
        novel: Classes that no model saw, in the place of the first of the classes.
    """

    def __init__(
        self,
        subjects: Subjects,
        gone: Sequence[int],
        few: Sequence[Part],
        test: Batches,
        novel: Sequence[NovelClass] = (),
    ) -> None:
        self._subjects, self._gone, self._few, self._novel = subjects, list(gone), few, novel
        self._unseen = samples_of(test, gone)
        self._seen = {name: collect_predictions(subject.model, few, "remain") for name, subject in subjects}
        self._usual = {name: usual_offsets(seen, self._gone) for name, seen in self._seen.items()}

    def biases(self) -> Iterator[Metric]:
        """Yield the accuracies with other biases of the classes, see `fastforget.auditing.best_bias`."""
        meaning = "share of test samples of the forgotten classes that are right "
        yield self._metric(
            "with the best bias",
            meaning + f"with the offsets of their logits that are best on {FEW} samples of each class",
            lambda name: best_offsets(self._seen[name], self._gone),
        )
        yield self._metric(
            "with a usual bias",
            meaning + "once their logits are as far below the others, on samples of these, as those are on average",
            self._usual.__getitem__,
        )
        if "original" in self._seen:
            yield self._metric(
                "with the old bias",
                meaning + "once their logits are as far below the others, on samples of these, as in the original",
                lambda name: old_offsets(self._seen[name], self._seen["original"], self._gone),
            )

    def _metric(self, name: str, meaning: str, offsets: Callable[[str], Tensor | None]) -> Metric:
        values: dict[str, float | None] = {}
        for key, subject in self._subjects:
            moved = offsets(key)
            values[key] = None if moved is None else shifted(self._unseen_of(subject), moved).accuracy
        return self._of_shares(name, meaning, values)

    def probes(self, features: Mapping[str, ModelFeatures | None]) -> Iterator[Metric]:
        """Yield the accuracies of classifiers that are trained on the features, None for models without."""
        kinds: tuple[tuple[str, Callable[[Tensor, Tensor, Tensor], Tensor], int, str], ...] = (
            ("linear probe", linear_probe, KNOWN, "a linear classifier of the features, trained on {} of each class"),
            ("nearest class mean", nearest_mean, FEW, "the nearest class mean of the features, of {} of each class"),
        )
        metrics = []
        for name, classify, count, how in kinds:

            def accuracy(found: ModelFeatures | None, classify=classify, count=count) -> float | None:  # type: ignore[no-untyped-def]
                if found is None:
                    return None
                known, unseen = found.known.first(count), found.test.of_classes(self._gone)
                return _share_right(classify(known.values, known.targets, unseen.values), unseen)

            values = {key: accuracy(found) for key, found in features.items()}
            meaning = f"share of test samples of the forgotten classes that are right by {how.format(count)}"
            metrics.append(self._of_shares(name, meaning, values))
        audited = self._subjects.audited.model
        classifiers = [(classify, count) for _, classify, count, _ in kinds]
        if self._novel:
            metrics = list(compare_probes(metrics, classifiers, audited, features["model"], self._gone, self._novel))
        yield from metrics

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return the accuracy while all classes are learnt again, see `again_curve`, by model."""
        return {name: again_curve(subject.model, self._few, self._unseen) for name, subject in self._subjects}

    def again(self, curves: Mapping[str, Sequence[tuple[int, float]]]) -> Iterator[Metric]:
        """Yield what the curves are after some steps, and what is reached if the bias is put back first."""
        meaning = f"share of test samples of the forgotten classes that are right after {{}} SGD steps on {FEW} of each"
        values = {step: {name: dict(curve)[step] for name, curve in curves.items()} for step in AGAIN}
        metrics = [self._of_shares(f"again {step}", meaning.format(step), values[step]) for step in AGAIN]
        yield from self._beside_novel(metrics, AGAIN)
        if self._usual["model"] is not None:
            found = {
                name: again_curve(subject.model, self._few, self._unseen, self._usual[name], (5,))[0][1]
                for name, subject in self._subjects
            }
            text = f"{meaning.format(5)}, with a usual bias from the start"
            metric = self._of_shares("again 5 with a usual bias", text, found)
            yield from self._beside_novel([metric], (5,), self._usual["model"])

    def _beside_novel(
        self, metrics: Sequence[Metric], steps: Sequence[int], offsets: Tensor | None = None
    ) -> Iterable[Metric]:
        if not self._novel:
            return metrics
        audited = self._subjects.audited.model
        return compare_again(metrics, steps, audited, self._few, self._gone, self._novel, offsets)

    def mass(self) -> dict[str, list[float]]:
        """Return the share of test samples of the classes that each class is predicted for, by model."""
        return {name: _predicted_shares(self._unseen_of(subject)) for name, subject in self._subjects}

    def _unseen_of(self, subject: Subject) -> Predictions:
        return subject.test.of_classes(self._gone)

    def _of_shares(self, name: str, meaning: str, values: Mapping[str, float | None]) -> Metric:
        value = values["model"]
        error = None if value is None else standard_error(value, len(self._unseen_of(self._subjects.audited).targets))
        return Metric(name, target="retrained", meaning=meaning, error=error, **compared(values))


def _share_right(found: Tensor, features: Features) -> float:
    return float((found == features.targets).double().mean())


def _predicted_shares(seen: Predictions) -> list[float]:
    counts = seen.logits.argmax(1).bincount(minlength=seen.logits.shape[1])
    shares: list[float] = (counts.double() / len(seen.targets)).tolist()
    return shares
