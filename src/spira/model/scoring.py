"""`score()`: the one function that turns a waveform into an answer, without torch.

Features (the code that training uses), network (ONNX: features of windows in, one logit a window
out), mean of the windows' probabilities, temperature, operating point. Prediction, evaluation and
serving call it, so they cannot drift apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.special import expit

from spira.audio.features import Features, extract
from spira.audio.windows import Windows, slices
from spira.domain.answers import OperatingPoint, Outcome
from spira.domain.errors import InputError, IntegrityError, RecordingRefused
from spira.domain.frozen import Frozen

Float = NDArray[np.float32]


# Before an operating point is chosen: the probability as it is, cut at one half.
UNDECIDED = OperatingPoint(
    threshold=0.5, band_low=0.5, band_high=0.5, temperature=1, prevalence=0.5, aim="none"
)


class ScoringSpec(Frozen):
    """How a network is asked."""

    features: Features
    windows: Windows
    rate_hz: int = 16_000

    @model_validator(mode="after")
    def _one_rate(self) -> "ScoringSpec":
        if self.features.rate_hz != self.rate_hz:
            raise ValueError(
                f"features are made for {self.features.rate_hz} Hz, waveforms have {self.rate_hz}"
            )
        return self


@dataclass(frozen=True)
class Score:
    """What a network says of one recording."""

    probability: float  # mean of the windows' probabilities, 0..1
    window_logits: Float  # [N], in order of time
    calibrated: float  # after the temperature
    outcome: Outcome


class Scorer:
    """A network ready to be asked. One session on one thread; threads may share it."""

    def __init__(
        self, network: bytes, spec: ScoringSpec, operating_point: OperatingPoint = UNDECIDED
    ) -> None:
        """Open an ONNX network.

        raises    InputError when the bytes are no network that ONNX Runtime can run
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # windows one by one are fastest; scale by processes
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                network, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises classes of its own without a common root
            raise InputError(f"network: ONNX Runtime cannot open it ({error})") from error
        self._input = self._session.get_inputs()[0].name
        self.spec = spec
        self.operating_point = operating_point

    def score(self, waveform: Float | Iterable[Float]) -> Score:
        """Ask about one recording, in memory that does not grow with its length.

        waveform  [T] float32 mono at the spec's rate, or its blocks in order
        raises    InputError for a recording without samples; RecordingRefused for one with samples
                  that are not finite, or so large that their power is not; IntegrityError when
                  the network answers with something that is not a number
        """
        blocks = [waveform] if isinstance(waveform, np.ndarray) else waveform
        logits = np.concatenate(
            [
                self._ask(self._features(part))
                for part in slices(blocks, self.spec.windows, self.spec.rate_hz)
            ]
        )
        if not np.isfinite(logits).all():
            raise IntegrityError("network: it answers with something that is not a finite number")
        probability = float(np.mean(expit(logits.astype(np.float64))))
        calibrated = self.operating_point.calibrate(probability)
        return Score(probability, logits, calibrated, self.operating_point.outcome(calibrated))

    def _features(self, part: Float) -> Float:
        """[N, frames, coefficients] of a slice."""
        with np.errstate(over="ignore", invalid="ignore"):
            features = extract(part, self.spec.windows, self.spec.features)
        if not np.isfinite(features).all():
            raise RecordingRefused(
                "not_finite",
                "the recording has samples that are not finite, or far beyond full scale (1.0)",
            )
        return features

    def _ask(self, features: Float) -> Float:
        """[N, frames, coefficients] to [N] logits, a window at a time."""
        each = [
            self._session.run(None, {self._input: window[None, None]})[0] for window in features
        ]
        return np.concatenate(each).astype(np.float32)
