"""`mvdiff protocols`: list the protocols of `mvdiff evaluate`, or print one."""

from __future__ import annotations

from dataclasses import dataclass, field

from mvdiff.cli.command import Command


@dataclass(frozen=True, kw_only=True)
class ProtocolsOptions:
    """Protocol."""

    id: str | None = field(default=None, metadata={"positional": True})
    """a protocol to print: one of the list, or a YAML file (default: list all)"""


def run(options: ProtocolsOptions) -> int:
    """Print a list or a protocol; return the exit status."""
    import yaml

    from mvdiff.eval.protocol_files import protocol_ids, read_protocol

    if options.id is None:
        for protocol in map(read_protocol, protocol_ids()):
            print(f"{protocol.id:<31} {protocol.hash()[:12]}  {protocol.title}")
        return 0
    protocol = read_protocol(options.id)
    print(f"# {protocol.id}: null is recorded with the results, but not demanded\n# SHA-256 {protocol.hash()}")
    values = {"title": protocol.title} | protocol.values()
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120), end="")
    return 0


COMMANDS = (
    Command(
        name="protocols",
        summary="protocols of mvdiff evaluate: every value that changes a number",
        description="Prints one line per protocol: id, start of its hash, title. With an id, prints every value "
        "of the protocol as YAML, with defaults, and the SHA-256 of these values. The output, in a file of another "
        "name, is a protocol of your own.",
        example="mvdiff protocols mvdiffusion-pano-v1",
        settings=(ProtocolsOptions,),
        run=run,
    ),
)
