"""Sections of the configuration that protect an update: encryption, defences against parties, differential privacy."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dictpfl.common.settings import NO_PUBLIC_KEY, OpenShare, Positive, Section, Share


def quorum(members: int) -> int:
    """Fewest of so many members that a masked sum must hold: more than two thirds, so that not two sums of a round find enough who help.

    Two groups as large share more than a third of all, and each honest institution signs one sum of an attempt (decision 0019).
    """
    return 2 * members // 3 + 1


class Encryption(Section):
    """Encryption of uploads."""

    sealer: Literal["ckks", "identity"] = Field(
        "ckks",
        description="`identity` sends the very same integers unencrypted, for exact comparison; needs `toy_insecure`.",
    )
    security: Literal[128, 192, 256] = Field(
        192, description="Least classical security, bits (2024 HE standard table)."
    )
    ring_degree: Literal[4096, 8192] = Field(4096, description="N, coefficients of a ciphertext.")
    pad_to: Literal["none", "steps", "full"] = Field(
        "steps",
        description="Size of uploads. `none`: what is pruned shows in their length, to within the values of one component, which told two data sets "
        "of one institution apart; `steps`: one of 16 sizes between two powers of two, at most 6.25 % more; `full`: as large in every round as if "
        "nothing were pruned, which saves no traffic.",
    )
    sealed_share: Share = Field(
        1.0,
        description="Share of coordinates that is encrypted; the rest crosses in clear, four bytes a value as float32 "
        "does. Below 1 needs `toy_insecure`.",
    )
    sensitivity: Literal["gradient", "magnitude"] = Field(
        "gradient", description="How `sealed_share` < 1 picks: FedML-HE's sensitivity map, or weight magnitude."
    )
    rescore_every: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0,
        description='K: update rounds after which institutions send scores anew, so that what `sensitivity = "gradient"` picks '
        "follows the model. 0: once, before the first update.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_former_keys(cls, values: Any) -> Any:
        """Read what saved configurations of earlier releases name; refuse what has no meaning any more."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if (profile := values.pop("profile", "symmetric")) != "symmetric":
            raise ValueError(f"profile is {profile!r}, but {NO_PUBLIC_KEY}; remove the line")
        if (seeded := values.pop("seeded_sums", "auto")) not in ("auto", "always"):
            raise ValueError(
                f"seeded_sums is {seeded!r}, but sums always carry seeds since protocol 4; remove the line"
            )
        if (full := values.pop("pad_uploads", None)) is not None:
            values.setdefault("pad_to", "full" if full else "none")
        return values


class Defences(Section):
    """Defences against more than a curious coordinator (docs/threat-model.md)."""

    masks: bool = Field(
        False,
        description="Pairwise masks on uploads: who has the key and taps the coordinator opens noise. A round takes a second "
        "exchange, of small messages, or four in all where somebody is missing; its sum holds more than two thirds of the members: rounds wait while a "
        'third is away. Needs `encryption.sealer = "ckks"` and 3 institutions.',
    )
    mask_partners: Annotated[int, Field(ge=2, le=1000)] = Field(
        30,
        description="Institutions that each one shares masks with, where there are more than that; an even number. Fewer than a third of these "
        "may collude, and rounds wait while a third of somebody's are away: the more, the better on both counts, and the slower.",
    )
    integrity: bool = Field(
        False,
        description="Signed manifests on every upload, besides the tags that are always there: they hold against a coordinator that an "
        "institution helps, too, and outsiders can verify them.",
    )
    reveal_seconds: Positive = Field(
        60.0,
        description="Seconds that the exchange about masks waits for institutions that delivered and do not answer.",
    )


class Privacy(Section):
    """Differential privacy: limits of what sums and the shared model tell (docs/how-to/differential-privacy.md)."""

    mechanism: Literal["none", "example", "institution"] = Field(
        "none",
        description="`example`: DP-SGD at each institution (Opacus), which protects each of its training samples; `institution`: "
        "clipped updates with discrete noise on the integer grid, which protects an institution as a whole. Both need the "
        "extra `dp`.",
    )
    noise_multiplier: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="Standard deviation of the noise over the norm that is clipped to. 0: the least with which all rounds "
        "stay within `epsilon`.",
    )
    epsilon: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Limit: an institution makes no upload that would spend more. 0: no limit."
    )
    delta: OpenShare = Field(
        1e-5, description="Of (epsilon, delta); well below one over the samples of an institution."
    )
    max_grad_norm: Positive = Field(1.0, description="`example`: L2 norm that the gradient of a sample is clipped to.")
    max_update_norm: Positive = Field(
        1.0,
        description="`institution`: L2 norm that an update is clipped to, with the residual that goes along, in the units of "
        "the parameters.",
    )
    curious: Annotated[int, Field(ge=0)] = Field(
        1,
        description="`institution`: how many of a sum's institutions may look together; they know their own noise, so that it "
        "does not count.",
    )
    accountant: Literal["rdp", "prv"] = Field(
        "rdp", description="`example`: Opacus' accountant; `prv` is tighter and takes longer."
    )
    figures: bool = Field(
        False,
        description="Send losses and validation figures all the same: exact, and outside of epsilon. Without them no best model "
        "is kept, and reports have none.",
    )

    @model_validator(mode="after")
    def _require_mechanism(self) -> Self:
        """Refuse noise that nobody asked a mechanism for; a mechanism that is named `none` is meant."""
        if (self.epsilon or self.noise_multiplier) and "mechanism" not in self.model_fields_set:
            raise ValueError(
                f"epsilon is {self.epsilon:g} and noise_multiplier {self.noise_multiplier:g}, but mechanism is not said, and nothing would add "
                'noise: set it to "example" or "institution", or to "none"'
            )
        return self
