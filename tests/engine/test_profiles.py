"""Profiles: the right row for each card, local rows first, and bad files refused in words."""

from pathlib import Path

import pytest
import yaml

from engine.profiles import PROFILES_FILE, Card, Profile, ProfileError, choose_profile

ROOT = Path(__file__).resolve().parents[2]

# Device names as the CUDA driver reports them, with capability and a plausible report of memory.
CARDS = [
    ("NVIDIA GeForce RTX 3060", (8, 6), 12036, "rtx-3060"),
    ("NVIDIA GeForce RTX 3060 Ti", (8, 6), 7974, "rtx-3070"),
    ("NVIDIA GeForce RTX 3060 Laptop GPU", (8, 6), 5938, "rtx-30-laptop"),
    ("NVIDIA GeForce RTX 3050 Ti Laptop GPU", (8, 6), 4096, "rtx-3050-laptop"),
    ("NVIDIA GeForce RTX 4090", (8, 9), 24217, "rtx-4090"),
    ("NVIDIA GeForce RTX 4090 D", (8, 9), 24217, "rtx-4090"),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9), 16376, "rtx-4090-laptop"),
    ("NVIDIA GeForce RTX 4050 Laptop GPU", (8, 9), 6140, "rtx-40-laptop"),
    ("NVIDIA GeForce RTX 5090", (12, 0), 32607, "rtx-5090"),
    ("NVIDIA GeForce RTX 5090 Laptop GPU", (12, 0), 24463, "rtx-5090-laptop"),
    ("NVIDIA A10", (8, 6), 22731, "a10"),
    ("NVIDIA A10G", (8, 6), 22731, "a10g"),
    ("NVIDIA A100-SXM4-40GB", (8, 0), 40442, "a100"),
    ("NVIDIA A100 80GB PCIe", (8, 0), 81154, "a100"),
    ("NVIDIA RTX A1000", (8, 6), 8191, "any-6gib"),
    ("NVIDIA L4", (8, 9), 22696, "l4"),
    ("NVIDIA L40", (8, 9), 45596, "l40"),
    ("NVIDIA L40S", (8, 9), 45596, "l40"),
    ("Tesla T4", (7, 5), 14918, "t4"),
    ("NVIDIA T400 4GB", (7, 5), 3904, "gtx-16"),
    ("NVIDIA H100 80GB HBM3", (9, 0), 81079, "h100"),
    ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0), 9856, "any-6gib"),
    ("NVIDIA H200", (9, 0), 143167, "h200"),
    ("Tesla V100-SXM2-16GB", (7, 0), 16144, "v100"),
    ("NVIDIA GeForce RTX 2070 with Max-Q Design", (7, 5), 7982, "rtx-20-laptop"),
    ("NVIDIA GeForce GTX 1650 with Max-Q Design", (7, 5), 3904, "gtx-16"),
    ("NVIDIA GeForce GTX 1080 Ti", (6, 1), 11172, "gtx-10"),
    ("NVIDIA RTX A6000", (8, 6), 48676, "rtx-a6000"),
    ("NVIDIA RTX 6000 Ada Generation", (8, 9), 48635, "rtx-6000-ada"),
    ("Quadro RTX 6000", (7, 5), 24220, "quadro-rtx"),
    ("Some Future Card", (13, 0), 98304, "any-40gib"),
    ("Some Future Card", (13, 0), 23000, "any-20gib"),
    ("Some Future Card", (13, 0), 12000, "any-11gib"),
    ("Some Small Card", (8, 6), 3900, "any-small"),
    ("Some Old Card", (5, 2), 12000, "any-old"),
    ("Intel(R) Xeon(R) Platinum", None, None, "cpu"),
    ("CPU", None, None, "cpu"),
    ("CPU with bf16", None, None, "cpu-bf16"),
]

# The original program's own table, which its users know.
PROMISED = {
    "rtx-3060": (768, "fp16", "on", 0.75),
    "rtx-4090": (1024, "fp16", "on", 0.85),
    "a10": (1280, "fp16", "on", 0.90),
    "l4": (1536, "fp16", "verify", 0.80),
    "t4": (768, "fp16", "off", 0.70),
}


@pytest.mark.parametrize(("name", "capability", "memory_mib", "expected"), CARDS)
def test_each_card_gets_its_row_and_a_reason(
    name: str, capability: tuple[int, int] | None, memory_mib: int | None, expected: str
) -> None:
    profile, reason = choose_profile(Card(name, capability, memory_mib))
    assert profile.name == expected
    assert name in reason and expected in reason and reason.endswith(".")


@pytest.mark.parametrize("name", PROMISED)
def test_promised_rows_hold_the_promised_values(name: str) -> None:
    profile, _ = choose_profile(Card("any"), name=name)
    assert (profile.input_px, profile.precision, profile.cuda_graph, profile.memory_fraction) == PROMISED[name]


def shipped_profiles() -> list[Profile]:
    rows = yaml.safe_load((ROOT / PROFILES_FILE).read_text())["profiles"]
    return [choose_profile(Card("any"), name=row["name"])[0] for row in rows]


def test_every_shipped_ladder_rises_in_steps_of_eight_to_the_input_size() -> None:
    profiles = shipped_profiles()
    assert len({profile.name for profile in profiles}) == len(profiles)
    for profile in profiles:
        assert list(profile.buckets_px) == sorted(set(profile.buckets_px))
        assert all(side % 8 == 0 for side in profile.buckets_px)
        assert profile.buckets_px[-1] == profile.input_px
        # A hole of 300 px with its context must find a bucket of 640 or less.
        assert any(480 <= side <= 640 for side in profile.buckets_px)


def write_local(folder: Path, **changes: object) -> None:
    row = {
        "name": "measured",
        "match": ["NVIDIA GeForce RTX 4090"],
        "input_px": 1280,
        "precision": "fp16",
        "cuda_graph": True,
        "memory_fraction": 0.8,
        "max_batch": 4,
    } | changes
    rows = {"profiles": [{key: value for key, value in row.items() if value is not None}]}
    (folder / "hardware_profiles.local.yaml").write_text(yaml.safe_dump(rows))


def test_local_file_wins_and_the_reason_says_so(tmp_path: Path) -> None:
    write_local(tmp_path)
    profile, reason = choose_profile(Card("NVIDIA GeForce RTX 4090", (8, 9), 24217), folder=tmp_path)
    assert profile == Profile("measured", 1280, "fp16", "on", (256, 384, 512, 640, 768, 1024, 1280), 0.8, 4)
    assert "hardware_profiles.local.yaml" in reason
    other, _ = choose_profile(Card("NVIDIA L4", (8, 9), 22696), folder=tmp_path)
    assert other.name == "l4"


@pytest.mark.parametrize(("written", "read"), [(None, "off"), (True, "on"), ("on", "on"), (False, "off")])
def test_fp8_is_off_unless_a_row_says_on(tmp_path: Path, written: object, read: str) -> None:
    write_local(tmp_path, fp8=written)
    assert choose_profile(Card("NVIDIA GeForce RTX 4090", (8, 9), 24217), folder=tmp_path)[0].fp8 == read


def test_local_rule_without_a_name_wins_over_shipped_rows(tmp_path: Path) -> None:
    write_local(tmp_path, match=None)
    profile, _ = choose_profile(Card("NVIDIA L4", (8, 9), 22696), folder=tmp_path)
    assert profile.name == "measured"
    assert choose_profile(Card("CPU"), folder=tmp_path)[0].name == "cpu"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputpx": 512}, ("'inputpx'", "'input_px'")),
        ({"input_px": 100}, ("input_px", "100", "from 64 to 4096, a multiple of 8")),
        ({"input_px": 8192}, ("input_px", "8192", "from 64 to 4096")),
        ({"precision": "fp8"}, ("precision", "'fp8'", "fp16, bf16, fp32")),
        ({"cuda_graph": "maybe"}, ("cuda_graph", "'maybe'", "on, off, verify")),
        ({"fp8": "auto"}, ("fp8", "'auto'", "on, off")),
        ({"memory_fraction": 1.5}, ("memory_fraction", "1.5", "from 0.1 to 1")),
        ({"memory_fraction": float("nan")}, ("memory_fraction", "nan")),
        ({"max_batch": 0}, ("max_batch", "0", "from 1 to 64")),
        ({"max_batch": None}, ("max_batch is missing", "from 1 to 64")),
        ({"buckets_px": [512, 256, 1280]}, ("buckets_px", "must rise")),
        ({"buckets_px": [256, 512]}, ("buckets_px", "end in input_px, 1280")),
        ({"buckets_px": []}, ("buckets_px", "must rise")),
        ({"buckets_px": 512}, ("buckets_px must be a list",)),
        ({"match": "RTX 4090"}, ("match must be a list",)),
        ({"capability": "eight"}, ("capability", "'eight'")),
    ],
)
def test_impossible_local_row_is_refused_with_the_allowed_range(
    tmp_path: Path, changes: dict[str, object], words: tuple[str, ...]
) -> None:
    write_local(tmp_path, **changes)
    with pytest.raises(ProfileError) as refusal:
        choose_profile(Card("CPU"), folder=tmp_path)
    for word in ("hardware_profiles.local.yaml, row 1 (measured)", *words):
        assert word in str(refusal.value)


OTHER_FORMS = ["", "profiles: 3\n", "profiles: [3]\n", "profile: []\n", "a: [\n"]
UNREADABLE = ["max_batch: " + "9" * 5000, "name: 2001-99-99", "name: !!timestamp x"]


# A row with a list of lists of ... of lists: ten times ten times ... ten letters.
ALIASES = (
    "profiles:\n- precision: [&a [x, x, x, x, x, x, x, x, x, x], "
    + ", ".join(f"&{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefghij", "bcdefghijk", strict=True))
    + "]\n  {}\n"
)


@pytest.mark.parametrize("content", [*OTHER_FORMS, *UNREADABLE])
def test_file_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "hardware_profiles.local.yaml").write_text(content)
    with pytest.raises(ProfileError, match=r"hardware_profiles\.local\.yaml"):
        choose_profile(Card("CPU"), folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 100_000, "larger than 64 KiB"),
        ("profiles: " + "[" * 30_000, "nests too deeply"),
        ("profiles: " + "- " * 30_000, "cannot be read"),
        (ALIASES.format("name: *k"), "is missing"),
        (ALIASES.format("*k : 1"), "cannot be read"),
        (ALIASES.format("capability: *k"), "is missing"),
    ],
    ids=["brackets", "brackets within the size", "dashes", "a value of aliases", "a key of aliases", "and others"],
)
def test_a_file_that_nests_deep_is_refused_in_a_sentence(tmp_path: Path, content: str, told: str) -> None:
    """The brackets ended the process inside the parser in C; the aliases would be a sentence of terabytes."""
    (tmp_path / "hardware_profiles.local.yaml").write_text(content)
    with pytest.raises(ProfileError, match=told) as refusal:
        choose_profile(Card("CPU"), folder=tmp_path)
    assert len(str(refusal.value)) < 1000 and "\n" not in str(refusal.value)


def test_unknown_profile_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ProfileError, match="'rtx-4090'"):
        choose_profile(Card("CPU"), name="rtx4090")
