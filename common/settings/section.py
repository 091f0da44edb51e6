"""Base class of all sections of the configuration, and ranges of numbers in them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A part of the file: immutable, and closed against unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true where a number belongs, which would be 1."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        said = value if isinstance(value, list) else [value]
        if wanted is not bool and any(isinstance(one, bool) for one in said):
            raise ValueError(f"expected no truth value, found {json.dumps(value)}")
        return value
