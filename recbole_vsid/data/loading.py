"""What RecBole reads from a dataset's folder, with errors and warnings that say what is wrong with it.

``CheckedFilesMixin`` goes over *any* RecBole dataset class. Files are read as RecBole reads them, after
:class:`~recbole_vsid.data.atomic_files.AtomicFile` has looked at their rows; then columns, ids, times and numbers are
looked at. It also mends what RecBole 1.2.1 does there: byte order marks and values of more than 131,072 characters
are read, a successful download ended in a crash, and filters that leave nothing ended in an unrelated error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas as pd
from recbole.utils import FeatureSource, FeatureType

from recbole_vsid.data.atomic_files import AtomicFile, values_of_any_length

OWN_SUFFIXES = ("inter", "user", "item", "kg", "link")


class CheckedFilesMixin:
    """Reads atomic files without losing or shifting rows, and refuses what no model could use."""

    def _load_data(self, token: str, dataset_path: str) -> None:
        if self.config["benchmark_filename"] is not None:
            raise ValueError("benchmark_filename is not supported: every result here comes from the split in eval_args")
        folder = Path(dataset_path)
        if folder.exists() and not (folder / f"{token}.inter").is_file():
            raise FileNotFoundError(
                f"dataset {token!r}: the folder {folder} has no {token}.inter; set data_path to the folder that "
                f"holds {token}/{token}.inter"
            )
        self._check_chosen_columns()
        self._columns_of: dict[str, list[str]] = {}
        super()._load_data(token, dataset_path)
        for key in ("load_col", "unload_col"):
            for suffix, chosen in (self.config[key] or {}).items():
                columns = self._columns_of.get(suffix, list(self.field2source))
                absent = sorted(set(chosen) - set(columns)) if chosen != "*" else []
                if absent:
                    raise ValueError(
                        f"{key} names {absent}, which the .{suffix} file of {token!r} does not have; the columns are "
                        f"{columns}"
                    )
        needed = {"USER_ID_FIELD": "every model", "ITEM_ID_FIELD": "every model"}
        if self.config["eval_args"]["order"] == "TO":
            needed["TIME_FIELD"] = "order: TO"
        for key, reason in needed.items():
            if self.inter_feat is None or self.config[key] not in self.inter_feat:
                columns = [] if self.inter_feat is None else list(self.inter_feat)
                raise ValueError(
                    f"dataset {token!r} has no column {self.config[key]!r}, which {reason} needs; set {key} or "
                    f"load_col (the columns that are read of {token}.inter are {columns})"
                )
        if "TIME_FIELD" in needed:
            self._check_times()

    def _check_chosen_columns(self) -> None:
        suffixes = self.config["additional_feat_suffix"] or []
        if not _are_names(suffixes) or set(suffixes) & set(OWN_SUFFIXES):
            raise ValueError(
                f"additional_feat_suffix={suffixes!r} is not usable: it must be a list of endings like [useremb], none "
                f"of them of {OWN_SUFFIXES}"
            )
        for key in ("load_col", "unload_col"):
            chosen = self.config[key] or {}
            known = (*OWN_SUFFIXES, *suffixes)
            every = {"*"} if key == "load_col" else set()
            if not isinstance(chosen, dict) or not all(
                suffix in known and (_are_names(columns) or (isinstance(columns, str) and columns in every))
                for suffix, columns in chosen.items()
            ):
                raise ValueError(
                    f"{key}={chosen!r} is not usable: it must map files, of {known}, to lists of columns, like "
                    "{inter: [user_id, item_id, timestamp], item: [item_id]}"
                )
        both = sorted(set(self.config["load_col"] or {}) & set(self.config["unload_col"] or {}))
        if both:
            raise ValueError(f"load_col and unload_col go without each other, and both name columns of {both}")

    def _load_feat(self, filepath: str, source: FeatureSource | str) -> pd.DataFrame | None:
        if self._get_load_and_unload_col(source)[0] == set():
            return super()._load_feat(filepath, source)  # it is not read
        if not self.config["seq_separator"]:
            raise ValueError(f"seq_separator={self.config['seq_separator']!r} is not usable: it must be a text")
        file = AtomicFile(filepath, self.config["field_separator"], self.config["encoding"])
        file.check()
        self._columns_of[getattr(source, "value", source)] = list(file.types)
        for field in {self.uid_field, self.iid_field} & set(file.types):
            if file.types[field] != FeatureType.TOKEN:
                raise ValueError(
                    f"{filepath}: the column {field!r} holds ids, so it must be {field}:token, not "
                    f"{field}:{file.types[field].value}"
                )
        try:
            with values_of_any_length(), self._read_as(file.encoding):
                feat = super()._load_feat(filepath, source)
        except ValueError as error:  # pandas names no row, and RecBole no file
            file.refuse_number(set(self.field2type), self.config["seq_separator"])
            raise ValueError(f"{filepath} is not readable as an atomic file of RecBole: {error}") from error
        if feat is not None:
            numbers = [name for name in feat if "float" in file.types[name].value and name != self.time_field]
            file.refuse_infinite(feat, numbers)
            self._check_ids(feat, file, source)
        return feat

    @contextmanager
    def _read_as(self, encoding: str) -> Iterator[None]:
        before = self.config["encoding"]
        self.config["encoding"] = encoding
        try:
            yield
        finally:
            self.config["encoding"] = before

    def _check_ids(self, feat: pd.DataFrame, file: AtomicFile, source: FeatureSource | str) -> None:
        keys = {FeatureSource.USER: "USER_ID_FIELD", FeatureSource.ITEM: "ITEM_ID_FIELD"}
        if source not in keys:
            return
        field = self.config[keys[source]]
        if field not in feat:
            raise ValueError(
                f"{file.path}: the column {field!r} is needed, and those that are read are {list(feat)}; set "
                f"{keys[source]} or load_col"
            )
        repeated = np.flatnonzero(feat[field].duplicated() & feat[field].notna())
        if len(repeated):
            first = repeated[0]
            self.logger.warning(
                f"{file.path}: {len(repeated)} of {len(feat)} rows repeat the {field!r} of an earlier row, "
                f"{feat[field][first]!r} in line {file.line_of(first)} first; the first row of each counts"
            )

    def _load_additional_feat(self, token: str, dataset_path: str) -> None:
        for suffix in self.config["additional_feat_suffix"] or []:
            path = Path(dataset_path) / f"{token}.{suffix}"
            if not path.is_file():
                raise FileNotFoundError(f"additional_feat_suffix names {suffix!r}, and there is no file {path}")
        super()._load_additional_feat(token, dataset_path)
        aliases = {field for key in ("alias_of_user_id", "alias_of_item_id") for field in self.config[key] or []}
        for suffix in self.config["additional_feat_suffix"] or []:
            feat = getattr(self, f"{suffix}_feat")
            tokens = [field for field in ([] if feat is None else feat) if "token" in self.field2type[field].value]
            unknown = next((field for field in tokens if field not in aliases), None)
            if unknown is not None:
                raise ValueError(
                    f"additional_feat_suffix={suffix}: RecBole must be told what the tokens of column {unknown!r} "
                    "name; set alias_of_user_id or alias_of_item_id to it, and give it a name that is in no other file"
                )

    def _check_times(self) -> None:
        """RecBole sorts tokens by their first occurrence, and sets missing times to the mean of the others."""
        if self.field2type[self.time_field] != FeatureType.FLOAT:
            raise ValueError(
                f"dataset {self.dataset_name!r}: the column {self.time_field!r} is of type "
                f"{self.field2type[self.time_field].value}, and order: TO needs {self.time_field}:float"
            )
        bad = np.flatnonzero(~np.isfinite(self.inter_feat[self.time_field].to_numpy()))
        if len(bad):
            raise ValueError(
                f"dataset {self.dataset_name!r}: {len(bad)} of {len(self.inter_feat)} interactions have no finite "
                f"{self.time_field!r}, interaction {bad[0] + 1} first ({self._line(bad[0])}); give them one, remove "
                "them, or set TIME_FIELD"
            )

    def _line(self, interaction: int) -> str:
        path = Path(self.dataset_path) / f"{self.dataset_name}.inter"
        file = AtomicFile(path, self.config["field_separator"], self.config["encoding"])
        return f"line {file.line_of(interaction)} of {path}"

    def _filter_nan_user_or_item(self) -> None:
        for field, feat in ((self.uid_field, self.user_feat), (self.iid_field, self.item_feat)):
            missing = np.flatnonzero(self.inter_feat[field].isnull() | (self.inter_feat[field] == "[PAD]"))
            if len(missing):
                raise ValueError(
                    f"dataset {self.dataset_name!r}: {len(missing)} of {len(self.inter_feat)} interactions have no "
                    f"{field!r}, interaction {missing[0] + 1} first ({self._line(missing[0])}); ids like NA, null, "
                    "None, nan and [PAD] count as missing: rename them in all files"
                )
            self._note_blanks(field)
            if feat is not None and feat[field].isnull().any():
                # RecBole takes row labels for row numbers, which repeated ids have pulled apart.
                self.logger.warning(
                    f"{feat[field].isnull().sum()} rows that describe a {field!r} without it are left out"
                )
                feat.dropna(subset=[field], inplace=True)
        super()._filter_nan_user_or_item()

    def _note_blanks(self, field: str) -> None:
        ids = pd.Series(self.inter_feat[field].unique())
        blanks = ids[ids.str.strip() != ids]
        doubles = blanks[blanks.str.strip().isin(ids)]
        if len(doubles):
            self.logger.warning(
                f"{len(doubles)} of {len(ids)} {field!r} differ from another by blanks around them only, "
                f"{doubles.iloc[0]!r} first; they count as different ids"
            )

    def _filter_inter_by_user_or_item(self) -> None:
        before = self.inter_feat[[self.uid_field, self.iid_field]]
        super()._filter_inter_by_user_or_item()
        left_out = before.drop(self.inter_feat.index)
        if not len(left_out):
            return
        told = (
            f"{len(left_out)} of {len(before)} interactions are left out, as their item or user is not in the .item or "
            f".user file{self._absent_ids(left_out)}; filter_inter_by_user_or_item=false keeps them"
        )
        if len(left_out) == len(before):
            raise ValueError(f"dataset {self.dataset_name!r}: {told}")
        self.logger.warning(told)

    def _absent_ids(self, left_out: pd.DataFrame) -> str:
        told = ""
        for field, feat in ((self.uid_field, self.user_feat), (self.iid_field, self.item_feat)):
            if feat is None:
                continue
            ids = left_out[field][~left_out[field].isin(feat[field])].unique()
            if len(ids):
                told += f" ({len(ids)} {field!r}, {ids[0]!r} first"
                alike = dict(zip(feat[field].str.strip().str.lower(), feat[field]))
                close = next((each for each in ids if each.strip().lower() in alike), None)
                if close is not None:
                    told += f"; {close!r} is there as {alike[close.strip().lower()]!r}: blanks and case count"
                told += ")"
        return told

    def _download(self) -> None:
        try:
            self._get_download_url("url")
        except ValueError:
            raise FileNotFoundError(
                f"unknown dataset {self.dataset_name!r}: looked for the folder {self.dataset_path} and in RecBole's "
                f"list of downloads. {_datasets_beside(self.dataset_path)}"
            ) from None
        try:
            super()._download()
        except URLError as error:
            raise FileNotFoundError(
                f"dataset {self.dataset_name!r} is not in {self.dataset_path} and could not be downloaded: "
                f"{error.reason}"
            ) from error
        except (RuntimeError, ValueError) as error:
            # RecBole waits at a distributed barrier after the download, also in a single process.
            if "process group" not in str(error):
                raise

    def _remove_duplication(self) -> None:
        if self.config["rm_dup_inter"] in (None, False):  # pandas' keep=False drops every copy of a repeated event
            return
        super()._remove_duplication()
        if self.time_field in self.inter_feat:  # RecBole's sort leaves events of one time in any order
            self.inter_feat = self.inter_feat.sort_index().sort_values(self.time_field, kind="stable")

    def _reset_index(self) -> None:
        # The last step of filtering, where RecBole says no more than that "some feat is empty".
        if len(self.inter_feat) == 0:
            raise ValueError(
                f"dataset {self.dataset_name!r}: no interaction is left after filtering; loosen "
                f"user_inter_num_interval={self.config['user_inter_num_interval']!r}, "
                f"item_inter_num_interval={self.config['item_inter_num_interval']!r} or "
                f"val_interval={self.config['val_interval']!r}"
            )
        super()._reset_index()


def _are_names(value: object) -> bool:
    return isinstance(value, (list, tuple, set)) and all(isinstance(name, str) for name in value)


def _datasets_beside(path: str | Path) -> str:
    parent = Path(path).parent
    found = sorted(folder.name for folder in parent.glob("*") if any(folder.glob("*.inter"))) if parent.is_dir() else []
    here = f"data_path {parent} holds: {', '.join(found)}." if found else f"data_path {parent} holds no dataset."
    return here + " Without data_path, ml-100k always works: RecBole's wheel carries it."
