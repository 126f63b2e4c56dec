"""The results of the load test: medians, facts about the machine, and the tables."""

import datetime
import os
import pathlib
import statistics
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
# key -> (its name in the table, which proxy, which tokens: none, one or many)
SCENARIOS = {
    "direct": ("direct, no proxy", None, None),
    "nginx": ("nginx, plain proxy", "nginx", None),
    "nginx-log": ("nginx, with an access log", "nginx-log", None),
    "nginx-token": ("nginx, plain proxy, the same token in the request", "nginx", "one"),
    "bare": ("bare hyper proxy, no feature", "bare", None),
    "cached": ("token-shield, token cached", "cached", "one"),
    "many": ("token-shield, 1,000 tokens in turn, cached", "cached", "many"),
    "ed25519": ("token-shield, Ed25519 token, verified every time", "cold", "ed25519"),
    "cold": ("token-shield, ML-DSA-65 token, verified every time", "cold", "one"),
    "before": ("the token-shield that --before names, token cached", "before", "one"),
}


def summary(seen):
    """Medians of the rounds, and ratios to nginx within the same kind."""
    rows = []
    for (key, streaming), lines in seen.items():
        row = {"scenario": key, "streaming": streaming, "rounds": lines}
        for field in ("per_s", "cpu_us_each", "busy", "mean_us", "p50_us", "p99_us", "max_us"):
            values = [line[field] for line in lines if line[field] is not None]
            row[field] = statistics.median(values) if values else None
        spread = [line["cpu_us_each"] for line in lines if line["cpu_us_each"] is not None]
        row["cpu_us_each_range"] = [min(spread), max(spread)] if spread else None
        rows.append(row)
    base = {row["streaming"]: row["cpu_us_each"] for row in rows if row["scenario"] == "nginx"}
    for row in rows:
        nginx = base.get(row["streaming"])
        row["ratio_to_nginx"] = row["cpu_us_each"] / nginx if nginx and row["cpu_us_each"] else None
    return rows


def facts(args):
    """Which code, which machine, when."""

    def said(*command):
        try:
            return subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=30
            ).stdout.strip()
        except OSError:
            return ""

    dirty = said("git", "status", "--porcelain", "--", ".", ":!loadtest/results")
    cpu = [
        line.split(":", 1)[1].strip()
        for line in open("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    nginx = (
        subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True).stderr.strip()
        if os.path.exists("/usr/sbin/nginx")
        else ""
    )
    return {
        "commit": said("git", "rev-parse", "--short=12", "HEAD") + ("-dirty" if dirty else ""),
        "date": datetime.datetime.now(datetime.timezone.utc)
        .isoformat(timespec="seconds")
        .replace("+00:00", "Z"),
        "cpu": cpu[0] if cpu else os.uname().machine,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "rustc": said("rustc", "--version"),
        "nginx": nginx.removeprefix("nginx version: "),
        "load_average": os.getloadavg(),
        "connections": args.connections,
        "rounds": args.rounds,
        "window_s": args.window,
        "warm_s": args.warm,
        "stream": {"chunks": args.chunks, "pace_ms": args.pace_ms},
    }


def markdown(facts_, rows, memory):
    def cell(value, form):
        return "" if value is None else format(value, form)

    lines = [
        f"# Load test of {facts_['commit']}, {facts_['date']}",
        "",
        f"{facts_['cores']} cores ({facts_['cpu']}), Linux {facts_['kernel']}, {facts_['rustc']}, "
        f"{facts_['nginx']}.",
        f"{facts_['connections']} connections, medians of {facts_['rounds']} interleaved rounds "
        f"of {facts_['window_s']:g} s; "
        f"load average at the start {facts_['load_average'][0]:.2f}.",
    ]
    for streaming, title, unit in (
        (False, "2 KB chat in, 1 KB out", "request"),
        (
            True,
            "Streams of {chunks} chunks, one each {pace_ms} ms".format(**facts_["stream"]),
            "chunk",
        ),
    ):
        chosen = [row for row in rows if row["streaming"] == streaming]
        if not chosen:
            continue
        latency = "to the first event" if streaming else "of a request"
        lines += [
            "",
            f"## {title}",
            "",
            (
                f"| scenario | {unit}s/s | CPU µs a {unit} (range) | to nginx | core busy | mean "
                f"ms {latency} | p50 ms | p99 ms | max ms |"
            ),
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in chosen:
            span = row["cpu_us_each_range"]
            each = f"{row['cpu_us_each']:.1f} ({span[0]:.1f}–{span[1]:.1f})" if span else ""
            times = " | ".join(
                f"{row[field] / 1000:.2f}" for field in ("mean_us", "p50_us", "p99_us", "max_us")
            )
            lines.append(
                f"| {SCENARIOS[row['scenario']][0]} | {row['per_s']:,.0f} | {each} | "
                f"{cell(row['ratio_to_nginx'], '.2f')} "
                f"| {cell(row['busy'], '.0%')} | {times} |"
            )
    lines += [
        "",
        "Resident memory at the end: "
        + ", ".join(f"{name} {kib / 1024:.1f} MiB" for name, kib in memory.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def publish(text):
    """Writes the tables between the two marks of docs/PERFORMANCE.md."""
    page = ROOT / "docs/PERFORMANCE.md"
    begin, end = "<!-- loadtest:begin -->", "<!-- loadtest:end -->"
    before, rest = page.read_text().split(begin)
    after = rest.split(end)[1]
    # Two levels down, because the tables are under a heading of that page.
    inner = "\n".join("##" + line if line.startswith("#") else line for line in text.splitlines())
    page.write_text(f"{before}{begin}\n{inner}\n{end}{after}")
