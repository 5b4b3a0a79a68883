"""Specs: every parameter of a chapter in one frozen, checked object that travels whole.

A chapter's parameters cell holds plain literals; `Spec.from_namespace(globals())` picks its own fields out of them,
so a parameter cannot be declared and then forgotten on the way. What identifies a result is `key_fields()`: the
whole spec without its paths, because the same content in another folder is the same input.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Optional, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from helpers.core.errors import SpecError
from helpers.core.paths import resolve

RUN_PARAMETERS = ("profile_dir", "run_name", "data_dir", "shard", "workers", "device")
"""Parameters of a run, not of a result: where, by what name, on how many threads. Never part of a spec or a key."""


class PathMarker:
    """Marks a spec field as a path: its content is an input, its name is not part of the key."""


PathStr = Annotated[str, PathMarker()]
"""A path-valued parameter."""


class Spec(BaseModel):
    """Base of every spec: frozen, nothing unknown, NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    chapter: ClassVar[str] = ""
    upstream: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_namespace(cls, namespace: dict[str, Any]) -> Self:
        """Build the spec from a chapter's variables.

        Parameters
        ----------
        namespace : dict
            `globals()` of the chapter, after the parameters cell.

        Returns
        -------
        Spec

        Raises
        ------
        SpecError
            When a parameter is missing or does not validate; every problem is listed.
        """
        return cls.from_values({name: namespace[name] for name in cls.model_fields if name in namespace})

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Build the spec from a dict, turning pydantic's complaint into ours.

        Parameters
        ----------
        values : dict

        Returns
        -------
        Spec

        Raises
        ------
        SpecError
            Lists every field that is unknown, of the wrong type or out of bounds.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SpecError(_describe(cls.__name__, error)) from None

    @classmethod
    def path_fields(cls) -> tuple[str, ...]:
        """Return the names of the fields that hold paths.

        Returns
        -------
        tuple of str
        """
        return tuple(name for name, field in cls.model_fields.items() if _is_path(field.annotation, field.metadata))

    def key_fields(self) -> dict[str, Any]:
        """Return what identifies the result: all fields but the paths, as JSON values.

        Returns
        -------
        dict
        """
        return self.model_dump(mode="json", exclude=set(self.path_fields()))

    def list_inputs(self, data_dir: str | Path | None = None) -> dict[str, Path]:
        """Return the files and folders that the spec names, whose content is part of the key.

        Parameters
        ----------
        data_dir : str or Path, optional
            Raw cohort folder; only the spec of chapter 00 reads it, and overrides this method to say so.

        Returns
        -------
        dict of str to Path
            By field name (and position, where a field holds several).
        """
        named: dict[str, Path] = {}
        for field in self.path_fields():
            value = getattr(self, field)
            values = value if isinstance(value, list | tuple) else [value]
            named |= {f"{field}[{i}]": resolve(path) for i, path in enumerate(values) if path is not None}
        return named


def _is_path(annotation: Any, metadata: list[Any]) -> bool:
    if any(isinstance(item, PathMarker) for item in metadata):
        return True
    nested = getattr(annotation, "__args__", ())
    return any(_is_path(item, list(getattr(item, "__metadata__", ()))) for item in nested)


def _describe(name: str, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "(the spec as a whole)"
        found = "" if problem["type"] in {"missing", "value_error"} else f", found {problem['input']!r}"
        lines.append(f"  {field}: {problem['msg']}{found}")
    plural = "parameter does" if len(lines) == 1 else "parameters do"
    return f"SpecError: {len(lines)} {plural} not fit {name}:\n" + "\n".join(lines)


class AnalysisPlan(Spec):
    """What is declared before anything is fitted; it stands in the profile under `shared:`.

    One primary score, endpoint, population, scale, adjustment and horizon. Everything else a chapter tests is
    secondary (Holm) or exploratory.
    """

    primary_target: str = Field("prolif11", description="score that the primary analysis uses")
    primary_endpoint: Literal["os", "pfi", "pfi_or_death", "dfi", "dss", "rfs"] = Field(
        "rfs", description="endpoint of the primary analysis"
    )
    primary_population: Literal["all", "erpos_her2neg"] = Field("all", description="cases of the primary analysis")
    primary_scale: Literal["per_sd", "per_unit", "high_vs_low"] = Field(
        "per_sd", description="contrast of the primary hazard ratio"
    )
    primary_adjustment: Literal["none", "clinical"] = Field("none", description="covariates of the primary model")
    primary_horizon_months: Optional[float] = Field(None, gt=0, description="follow-up is cut here, months")
