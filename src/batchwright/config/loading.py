"""How settings are read: defaults < file < environment < flags, once, and checked whole.

`load_config` is the only place that reads the environment; whatever is wrong is said at once, each
problem with key, expectation, value and where the value came from.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from batchwright.config.settings import (
    ADMIN_KEY,
    DATA_DIR,
    Config,
    LimitsConfig,
    ModelConfig,
    ProviderConfig,
    ServerConfig,
    names_of,
    plain_keys,
    quoted,
    settings_of,
)
from batchwright.config.values import Origin, Secret, Unexpected
from batchwright.domain.errors import ConfigError
from batchwright.domain.key import public_id

T = TypeVar("T")

PREFIX = "BATCHWRIGHT_"
ADMIN_KEY_LENGTH_MIN = 32
FILE_NAME = "batchwright.toml"
BUILTIN = "builtin"

_NOT_SETTINGS = frozenset(
    {ADMIN_KEY, "BATCHWRIGHT_API_KEY", "BATCHWRIGHT_BASE_URL", "BATCHWRIGHT_DEBUG"}
)


def load_config(
    file: Path | str | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    with_providers: bool = True,
) -> Config:
    """Read and check every setting.

    `flags` has values by dotted key (`server.port`); None there means not given. `environment`
    and `folder` are the process's by default. `with_providers` False leaves providers out,
    so that no provider key has to be there (clients, rehearsals).
    Raises `ConfigError` that lists all problems, a line each.
    """
    environment = os.environ if environment is None else environment
    folder = Path.cwd() if folder is None else folder
    loader = _Loader(environment, folder, with_providers)
    path = _find_file(file, environment, folder)
    if path is not None:
        loader.read_file(path)
    loader.read_environment()
    loader.read_flags(flags or {})
    return loader.finish(path)


def variable_of(key: str) -> str:
    """The environment variable of a setting: `server.port` → `BATCHWRIGHT_SERVER__PORT`."""
    return PREFIX + key.replace(".", "__").replace("-", "_").upper()


def _find_file(
    file: Path | str | None, environment: Mapping[str, str], folder: Path
) -> Path | None:
    if file is not None:
        path = folder / Path(file).expanduser()
        if not path.is_file():
            raise ConfigError(f"--config: expected a file that exists, got {path}", param="config")
        return path
    home = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")) / ".config")
    candidates = (folder / FILE_NAME, Path(home).expanduser() / "batchwright" / "config.toml")
    return next((path for path in candidates if path.is_file()), None)


class _Raw(NamedTuple):
    """A value as it was found."""

    value: Any
    origin: Origin


Table = dict[str, _Raw]


class _Loader:
    """Gathers raw values layer by layer; a later layer replaces an earlier one's value."""

    def __init__(self, environment: Mapping[str, str], folder: Path, with_providers: bool) -> None:
        self._environment = environment
        self._folder = folder
        self._with_providers = with_providers
        self._top: Table = {}
        self._sections: dict[str, Table] = {"server": {}, "limits": {}}
        self._named: dict[str, dict[str, Table]] = {"providers": {}, "models": {}}
        self._problems: list[str] = []
        self._origins: dict[str, str] = {}

    # Layers

    def read_file(self, path: Path) -> None:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: expected a TOML file: {error}") from None
        origin = Origin(str(path), path.absolute().parent, self._environment, is_text=False)
        for key, value in content.items():
            self._put(key, value, origin)

    def _put(self, key: str, value: Any, origin: Origin) -> None:
        if key in names_of(Config):
            self._top[key] = _Raw(value, origin)
        elif key not in self._sections and key not in self._named:
            self._unknown(key, origin, [*names_of(Config), *self._sections, *self._named])
        elif not isinstance(value, dict):
            self._problems.append(f"{key}: expected a table [{key}] ({origin.name})")
        elif key in self._sections:
            self._sections[key].update({name: _Raw(each, origin) for name, each in value.items()})
        else:
            self._put_named(key, value, origin)

    def _put_named(self, key: str, value: dict[str, Any], origin: Origin) -> None:
        for name, table in value.items():
            if not isinstance(table, dict):
                self._problems.append(
                    f"{key}.{quoted(name)}: expected a table [{key}.{quoted(name)}] ({origin.name})"
                )
                continue
            kept = self._named[key].setdefault(name, {})
            kept.update({inner: _Raw(each, origin) for inner, each in table.items()})

    def read_environment(self) -> None:
        for variable, value in self._environment.items():
            if variable.startswith(PREFIX) and variable not in _NOT_SETTINGS:
                origin = Origin(variable, self._folder, self._environment)
                self._put_variable(variable, _Raw(value, origin))

    def _put_variable(self, variable: str, raw: _Raw) -> None:
        parts = variable.removeprefix(PREFIX).lower().split("__")
        match parts:
            case [key] if key in names_of(Config):
                self._top[key] = raw
            case [section, key] if section in self._sections:
                self._sections[section][key] = raw
            case ["providers", name, key]:
                self._provider_table(name)[key] = raw
            case _:
                self._unknown_variable(variable)

    def _provider_table(self, name: str) -> Table:
        """The table of a provider that a variable names: there `-` and `.` are `_`."""
        providers = self._named["providers"]
        same = (known for known in providers if re.sub(r"[-.]", "_", known).lower() == name)
        return providers.setdefault(next(same, name), {})

    def _unknown_variable(self, variable: str) -> None:
        # Kubernetes sets variables such as BATCHWRIGHT_PORT for a service of our name, so one
        # without a section is only taken for a slip where it is near to a setting.
        has_section = "__" in variable
        known = [variable_of(key) for key in plain_keys() if ("." in key) == has_section]
        near = get_close_matches(variable, [*known, *_NOT_SETTINGS], n=1, cutoff=0.85)
        if has_section or near:
            hint = f"; nearest: {near[0]}" if near else ""
            self._problems.append(f"{variable}: no such setting (environment){hint}")

    def read_flags(self, flags: Mapping[str, Any]) -> None:
        for key, value in flags.items():
            if value is None:
                continue
            section, _, name = key.rpartition(".")
            origin = Origin("--" + name.replace("_", "-"), self._folder, self._environment)
            table = self._sections[section] if section else self._top
            table[name] = _Raw(value, origin)

    # The whole

    def finish(self, file: Path | None) -> Config:
        self._check_known("", Config, self._top)
        top = self._values("", Config, self._top)
        server = self._section("server", ServerConfig)
        limits = self._section("limits", LimitsConfig)
        providers = self._providers(top.get("providers_from_environment"))
        models = self._models(providers)
        admin_key = self._admin_key()
        self._check_tls(server)
        if self._problems:
            raise ConfigError(_listed(self._problems))
        top.setdefault("data_dir", self._folder / DATA_DIR)
        return Config(
            **top,
            server=server,
            limits=limits,
            providers=providers,
            models=models,
            admin_key=admin_key,
            file=file,
            origins=self._origins,
        )

    def _section(self, name: str, kind: type[T]) -> T:
        table = self._sections[name]
        self._check_known(f"{name}.", kind, table)
        return kind(**self._values(f"{name}.", kind, table))

    def _values(self, prefix: str, kind: type, table: Table) -> dict[str, Any]:
        """The values of a section that were given and can be read."""
        values = {}
        for declared in settings_of(kind):
            raw = table.get(declared.name)
            if raw is None:
                continue
            key = prefix + declared.name
            try:
                values[declared.name] = declared.metadata["reader"](*raw)
            except Unexpected as unexpected:
                self._unexpected(key, raw, unexpected)
            self._origins[key] = raw.origin.name
        return values

    def _unexpected(self, key: str, raw: _Raw, unexpected: Unexpected) -> None:
        got = f", got {raw.value!r}" if unexpected.shows_value else ""
        where = "" if raw.origin.name == key else f" ({raw.origin.name})"
        self._problems.append(f"{key}: expected {unexpected.expected}{got}{where}")

    def _check_known(self, prefix: str, kind: type, table: Table) -> None:
        for name, raw in table.items():
            if name not in names_of(kind):
                self._unknown(prefix + name, raw.origin, [prefix + each for each in names_of(kind)])

    def _unknown(self, key: str, origin: Origin, known: list[str]) -> None:
        near = get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f"nearest: {near[0]}" if near else f"known: {', '.join(sorted(known))}"
        self._problems.append(f"{key}: no such setting ({origin.name}); {hint}")

    # Providers and models

    def _providers(self, from_environment: bool | None) -> dict[str, ProviderConfig]:
        if not self._with_providers:
            return {}
        providers = {}
        for name, table in self._named["providers"].items():
            made = self._provider(name, table)
            if made is not None:
                providers[name] = made
        if from_environment is None:
            from_environment = not self._named["providers"]
        if from_environment:
            self._add_from_environment(providers)
        return providers

    def _provider(self, name: str, table: Table) -> ProviderConfig | None:
        from batchwright.providers.catalog import catalog

        prefix = f"providers.{quoted(name)}."
        if name == BUILTIN or not _PROVIDER_NAME.fullmatch(name):
            self._problems.append(_bad_provider_name(name))
            return None
        self._check_known(prefix, ProviderConfig, table)
        values = self._values(prefix, ProviderConfig, table)
        kind = values.setdefault("kind", name if name in catalog() else "openai")
        entry = catalog().get(kind)
        if entry is None:
            near = get_close_matches(kind, list(catalog()), n=1)
            nearest = f"; nearest: {near[0]}" if near else ""
            known = ", ".join(catalog())
            self._problems.append(f"{prefix}kind: expected one of {known}, got {kind!r}{nearest}")
            return None
        if "base_url" not in table and name not in catalog() and "kind" not in table:
            self._problems.append(_unknown_provider(name, list(catalog())))
            return None
        if "base_url" in table and "base_url" not in values:
            return None  # its problem is told
        values.setdefault("base_url", entry.base_url)
        is_own_address = values["base_url"].rstrip("/") == entry.base_url.rstrip("/")
        if "api_key" not in table and entry.api_key_env and is_own_address:
            values["api_key"] = self._usual_key(prefix, entry.api_key_env)
        if is_own_address:
            self._check_foreign(prefix, entry.title, values.get("api_key"))
        return ProviderConfig(name=name, **values)

    def _usual_key(self, prefix: str, variables: tuple[str, ...]) -> Secret | None:
        for variable in variables:
            if value := self._environment.get(variable, "").strip():
                self._origins[prefix + "api_key"] = variable
                return Secret(value, f"env:{variable}")
        self._problems.append(
            f"{prefix}api_key: expected the variable {variables[0]} to be set, or api_key "
            'as "env:NAME" or "file:PATH"'
        )
        return None

    def _check_foreign(self, prefix: str, title: str, key: Secret | None) -> None:
        """No key of a batchwright server goes to a known provider at its own address.

        Where the SDK of OpenAI is to find such a server, its key stands in OPENAI_API_KEY.
        """
        if key is not None and public_id(key.value) is not None:
            self._problems.append(
                f"{prefix}api_key: expected a key of {title}, got one of a batchwright server "
                f"({key.source}); unset it here and set it for the program that needs it alone"
            )

    def _add_from_environment(self, providers: dict[str, ProviderConfig]) -> None:
        from batchwright.providers.catalog import from_environment

        for entry, variable in from_environment(self._environment):
            if entry.name in self._named["providers"]:
                continue
            key = Secret(self._environment[variable].strip(), f"env:{variable}")
            self._check_foreign(f"providers.{entry.name}.", entry.title, key)
            providers[entry.name] = ProviderConfig(
                name=entry.name,
                kind=entry.name,
                base_url=entry.base_url,
                api_key=key,
            )
            for name in ("kind", "base_url", "api_key"):
                self._origins[f"providers.{entry.name}.{name}"] = variable

    def _models(self, providers: Mapping[str, ProviderConfig]) -> dict[str, ModelConfig]:
        models = {}
        for name, table in self._named["models"].items():
            prefix = f"models.{quoted(name)}."
            self._check_known(prefix, ModelConfig, table)
            models[name] = ModelConfig(**self._values(prefix, ModelConfig, table))
            if self._with_providers:
                self._check_routes(prefix, models[name], providers)
        return models if self._with_providers else {}

    def _check_routes(
        self, prefix: str, model: ModelConfig, providers: Mapping[str, ProviderConfig]
    ) -> None:
        known = [*self._named["providers"], *providers, BUILTIN]
        for route in model.routes:
            provider = route.partition("/")[0]
            if provider not in known:
                names = ", ".join(dict.fromkeys(known))
                self._problems.append(
                    f"{prefix}routes: expected configured providers ({names}), got {route!r}"
                )

    # Checks over several settings

    def _check_tls(self, server: ServerConfig) -> None:
        if (server.tls_cert_file is None) != (server.tls_key_file is None):
            self._problems.append(
                "server.tls_cert_file: expected together with server.tls_key_file"
            )

    def _admin_key(self) -> Secret | None:
        value = self._environment.get(ADMIN_KEY, "").strip()
        if not value:
            return None
        is_sendable = value.isascii() and value.isprintable() and " " not in value
        if len(value) < ADMIN_KEY_LENGTH_MIN or not is_sendable:
            self._problems.append(
                f"{ADMIN_KEY}: expected {ADMIN_KEY_LENGTH_MIN} or more ASCII characters without "
                f"spaces, got {len(value)}"
            )
        return Secret(value, f"env:{ADMIN_KEY}")


_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _bad_provider_name(name: str) -> str:
    if name == BUILTIN:
        return "providers.builtin: the embedded provider is always on and takes no settings"
    return f"providers.{quoted(name)}: expected a name of letters, digits, '.', '_' and '-'"


def _unknown_provider(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    nearest = f"; nearest: {near[0]}" if near else ""
    return f"providers.{name}.base_url: expected a URL, as {name!r} is no known provider{nearest}"


def _listed(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} settings are wrong:", *problems])
