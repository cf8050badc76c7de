"""What a run found, so far: record.py TABLE OUT LOGS REVISION INFO

Writes OUT/results.json, all parts and their rows, and OUT/history.tsv, lines for benches/history.tsv: none of an
emulated driver.
"""
import datetime
import json
import sys
from pathlib import Path


def rows_of(path):
    """The rows of a file of JSON lines; a part that was stopped may have left half a line."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            pass
    return [row for row in rows if isinstance(row, dict)]


def beside_cudnn(benches, rows):
    """Those passes that both `engine bench` and cuDNN timed: below a ratio of 1 the engine is faster."""
    ours = {(c["case"], c["pass"], r["precision"]): c["seconds"] for r in benches for c in r["cases"]}
    found = []
    for row in rows:
        key = row["case"], row.get("pass"), row["precision"]
        if key in ours and "seconds" in row:
            found.append(row | {"engine_seconds": ours[key], "ratio": ours[key] / row["seconds"]})
    return found


def history(date, revision, benches, compare):
    lines = []

    def line(device, case, storage, seconds, gbs="-", gflops="-", ratio="-"):
        lines.append("\t".join([date, revision, device, case, storage, f"{seconds:.4g}", gbs, gflops, ratio]))

    for r in (r for r in benches if not r["emulated"]):
        # The layers that a step spends its time in.
        for c in (c for c in r["cases"] if c["layer"] and (not c["flops"] or c["flops"] > 1e10)):
            storage = "tf32" if r["precision"] == "tf32" and c["storage"] == "f32" else c["storage"]
            gflops = f"{c['gflop_per_second']:.0f}" if c["flops"] else "-"
            line(r["device"], f"{c['case']} {c['pass']}", storage, c["seconds"], f"{c['gb_per_second']:.0f}", gflops)
    for h in compare.get("headlines", []):
        line(compare["device"], h["task"], h["precision"], h["ms"] / 1e3, ratio=f"{h['ratio']:.3f}")
    return lines


def main():
    table, out, logs, revision, info = map(Path, sys.argv[1:])
    parts = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    cuda = next((l[4:].strip() for l in info.read_text().splitlines() if l.startswith("cuda ")), "")
    date, revision = datetime.datetime.now(datetime.timezone.utc).date().isoformat(), revision.read_text().strip()
    benches = [json.loads(path.read_text()) for path in sorted(out.glob("bench-*.json"))]
    compare = json.loads((out / "compare.json").read_text()) if (out / "compare.json").exists() else {}
    cudnn = rows_of(logs / "cudnn.jsonl")
    results = {
        "date": date,
        "revision": revision,
        "cuda": cuda,
        "emulated": "cudaemu" in cuda,
        "parts": [{"part": p, "outcome": o, "seconds": int(s), "figure": f} for p, o, s, f in parts],
        "product": rows_of(logs / "product.json"),
        "cudnn": beside_cudnn(benches, cudnn) or cudnn,
        "steps": rows_of(logs / "steps.jsonl"),
        "memory": rows_of(logs / "memory.jsonl"),
    }
    lines = history(date, revision, benches, compare)
    (out / "history.tsv").write_text("".join(l + "\n" for l in lines))
    (out / "results.json").write_text(json.dumps({k: v for k, v in results.items() if v != []}, indent=1) + "\n")


main()
