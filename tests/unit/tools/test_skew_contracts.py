"""The contracts of a release to come, as tests of mixed versions need them."""

import subprocess
import sys
from pathlib import Path

from contracts.placement.v1.placement_pb2 import AssignRoomRequest
from tools import skew_contracts

ROOT = Path(__file__).parents[3]


def test_every_message_gets_the_field_once() -> None:
    for path in sorted((ROOT / "proto" / "contracts").rglob("*.proto")):
        text = path.read_text()
        messages = sum(1 for line in text.splitlines() if line.strip().startswith("message "))
        assert skew_contracts.add_field(text).count(f"string {skew_contracts.FIELD} =") == messages


def test_the_widened_contracts_still_generate_and_send_what_this_release_reads(
    tmp_path: Path,
) -> None:
    out = tmp_path / "gen"
    out.mkdir()
    for path in sorted((ROOT / "proto" / "contracts").rglob("*.proto")):
        to = tmp_path / path.relative_to(ROOT / "proto")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(skew_contracts.add_field(path.read_text()))
    protos = sorted(map(str, tmp_path.rglob("*.proto")))
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(tmp_path)]
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}"]
    subprocess.run([*protoc, *outputs, *protos], check=True)
    for path in sorted(out.rglob("*_grpc.py")):
        path.write_text(skew_contracts.send_field(path.read_text()))
    # As a package of its own: without, the one that is installed comes first.
    for folder in (path for path in out.rglob("*") if path.is_dir()):
        (folder / "__init__.py").touch()
    # In a process of its own: two generations of one message do not fit into one.
    script = (
        "import sys, grpc\n"
        "from contracts.placement.v1 import placement_pb2, placement_pb2_grpc as rpc\n"
        "request = placement_pb2.AssignRoomRequest(room_name='r')\n"
        "sent = rpc._with_added_field(request)\n"
        f"assert placement_pb2.AssignRoomRequest.FromString(sent).{skew_contracts.FIELD}\n"
        "sys.stdout.buffer.write(sent)\n"
    )
    sent = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(out)},
        capture_output=True,
        check=True,
    ).stdout
    read = AssignRoomRequest.FromString(sent)
    assert read.room_name == "r"
    assert len(sent) > len(AssignRoomRequest(room_name="r").SerializeToString())


def test_every_service_sends_the_field(tmp_path: Path) -> None:
    for path in sorted((ROOT / "proto" / "gen" / "contracts").rglob("*_grpc.py")):
        text = skew_contracts.send_field(path.read_text())
        assert "serializer=contracts" not in text.replace("_deserializer", "").replace(
            "deserializer", ""
        )
