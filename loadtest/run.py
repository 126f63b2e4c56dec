#!/usr/bin/env python3
"""The load test: one command, every scenario, interleaved rounds, medians. See loadtest/README.md.

Everything runs on 127.0.0.1 and is bounded in time. The script stops the processes that it started,
by their ids.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from report import HERE, ROOT, SCENARIOS, facts, markdown, publish, summary

ISS, AUD, MODEL = "https://operator.loadtest.example", "https://gateway.loadtest.example", "load"

STREAMED = ["direct", "nginx", "bare", "cached", "before"]


class Trouble(Exception):
    """An error that the user can correct."""


class Processes:
    """The processes that this run started; no other process gets a signal."""

    def __init__(self):
        self.started = []

    def start(self, command, core, **options):
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, command)], stdin=subprocess.DEVNULL, **options
        )
        self.started.append(process)
        return process

    def stop(self):
        for process in reversed(self.started):
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Proxy:
    """A running proxy: its processes, and its addresses for whole answers and for streams."""

    def __init__(self, process, plain, streams):
        self.process, self.plain, self.streams = process, plain, streams

    def pids(self):
        """The process and its children (nginx's worker)."""
        found = [self.process.pid]
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    found.append(int(stat.parent.name))
            except (OSError, IndexError):
                continue  # the process ended between the two calls
        return found

    def rss_kib(self):
        total = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
        return total


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(address, process, log):
    """Returns once `address` accepts a connection."""
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:] if log else ""
    raise Trouble(f"{process.args[3]} does not answer at {address}\n{tail}")


def spoken_address(process):
    """The address that upstream and bare-proxy print as their first line."""
    line = process.stdout.readline().decode().strip()
    if not line:
        raise Trouble(f"{process.args[3]} ended before it said where it listens")
    return line


def start_nginx(processes, args, folder, upstream, name, access_log):
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not binary:
        raise Trouble(
            "nginx is not installed: apt-get install nginx-light (or leave its scenarios out with "
            "--only)"
        )
    home = folder / name
    home.mkdir()
    plain, streams = (f"127.0.0.1:{free_port()}" for _ in range(2))
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"    {kind}_temp_path {home}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )

    def server(address, buffering):
        return f"""    server {{
        listen {address};
        location / {{ proxy_pass http://upstream; proxy_buffering {buffering}; }}
    }}"""

    (home / "nginx.conf").write_text(f"""{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log crit;
events {{ worker_connections 4096; }}
http {{
    access_log {f"{home}/access.log" if access_log else "off"};
{temporary}
    keepalive_requests 1000000000;
    client_body_buffer_size 64k;
    upstream upstream {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
{server(plain, "on")}
{server(streams, "off")}
}}
""")
    command = [binary, "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"]
    process = processes.start(command, args.proxy_core, stdout=subprocess.DEVNULL)
    wait_for(plain, process, home / "error.log")
    return Proxy(process, plain, streams)


def start_bare(processes, args, upstream):
    process = processes.start(
        [example(args, "bare-proxy"), "--upstream", upstream],
        args.proxy_core,
        stdout=subprocess.PIPE,
    )
    address = spoken_address(process)
    return Proxy(process, address, address)


def start_token_shield(processes, args, folder, upstream, name, cache, binary):
    home = folder / name
    home.mkdir(mode=0o700)
    api, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    # All limits are on, so that their cost is measured, but too wide to refuse a request.
    (home / "token-shield.toml").write_text(f"""name = "loadtest"
data = "{home}/data"

[listen]
api = "{api}"
metrics = "{metrics}"
admin = "unix:{home}/admin.sock"

[limits]
token_cache = {cache}
peer_rps = 4000000000

[[issuer]]
iss = "{ISS}"
aud = "{AUD}"
jwks = "{folder}/tokens/operator.jwks"
namespaces = ["loadtest"]
pq = "off"

[[upstream]]
name = "upstream"
url = "http://{upstream}"
profile = "generic"
controlled = true
in_flight = 100000

[[model]]
name = "{MODEL}"
route = ["upstream"]

[class.default]
rpm = 1000000000
in_flight = 100000
output_tokens = 4096
""")
    log = home / "log"
    command = [binary, "serve", "--config", home / "token-shield.toml"]
    with log.open("wb") as out:
        process = processes.start(command, args.proxy_core, stdout=out, stderr=out)
    wait_for(api, process, log)
    return Proxy(process, api, api)


def example(args, name):
    path = args.examples / name
    if not path.exists():
        raise Trouble(f"{path} is missing: run without --no-build")
    return path


def mint(args, folder):
    """Keys and tokens: `operator.jwks` (public), one token, many tokens, one Ed25519 token."""
    home = folder / "tokens"
    command = [example(args, "mint"), "--out", home, "--iss", ISS, "--aud", AUD, "--count", "1000"]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    return {"one": home / "one.txt", "many": home / "many.txt", "ed25519": home / "ed25519.txt"}


def measure(args, proxy, target, tokens, streaming):
    """Measures one window of one scenario; returns the line of `load`, or raises Trouble."""
    command = ["taskset", "-c", args.load_core, example(args, "load"), "--target", target]
    command += ["--connections", args.connections, "--warm-s", args.warm, "--window-s", args.window]
    command += ["--stream"] if streaming else []
    command += ["--rate", args.rate] if args.rate else []
    command += ["--tokens", tokens] if tokens else []
    for pid in proxy.pids() if proxy else []:
        command += ["--pid", pid]
    limit = args.warm + args.window + 30
    out = subprocess.run(
        list(map(str, command)), check=True, timeout=limit, stdout=subprocess.PIPE
    ).stdout
    line = json.loads(out)
    if line["errors"] or not line["requests"]:
        raise Trouble(f"{line['errors']} errors at {target}; the first: {line['first_error']}")
    units = line["events"] if streaming else line["requests"]
    line["per_s"] = units / line["window_s"]
    line["cpu_us_each"] = line["cpu_us"] / units if proxy else None
    line["busy"] = line["cpu_us"] / line["window_s"] / 1e6 if proxy else None
    return line


def rounds(args, upstream, proxies, tokens):
    """Runs all scenarios in turn, in rounds: a disturbance of the machine affects all alike."""
    plan = [(key, False) for key in args.only] + [
        (key, True) for key in args.only if key in STREAMED
    ]
    seen = {step: [] for step in plan}
    for turn in range(args.rounds):
        for key, streaming in plan:
            _, proxy_name, token = SCENARIOS[key]
            proxy = proxies.get(proxy_name)
            target = (proxy.streams if streaming else proxy.plain) if proxy else upstream
            line = measure(args, proxy, target, tokens.get(token), streaming)
            seen[(key, streaming)].append(line)
            each = "" if line["cpu_us_each"] is None else f"{line['cpu_us_each']:8.1f} µs CPU each"
            kind = "chunks" if streaming else "requests"
            print(
                f"round {turn + 1}/{args.rounds}  {key:12} {line['per_s']:10.0f} {kind}/s {each}",
                file=sys.stderr,
            )
    return seen


def words():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--window",
        type=float,
        default=5.0,
        help="seconds that are counted, each scenario and round",
    )
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before each window")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=200, help="chunks of a stream")
    parser.add_argument("--pace-ms", type=int, default=2, help="milliseconds between two of them")
    parser.add_argument(
        "--rate",
        type=float,
        help="requests a second, evenly; as many as there are answers where it is not said",
    )
    parser.add_argument(
        "--before", type=pathlib.Path, help="another token-shield, for the scenario before"
    )
    parser.add_argument("--proxy-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1, help="the core of load and upstream")
    parser.add_argument("--only", help="which scenarios, of: " + " ".join(SCENARIOS))
    parser.add_argument("--no-build", action="store_true", help="take the programs as they are")
    parser.add_argument(
        "--programs",
        type=pathlib.Path,
        default=ROOT / "target/release",
        help="folder of the release build",
    )
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results")
    parser.add_argument(
        "--publish", action="store_true", help="put the table into docs/PERFORMANCE.md"
    )
    args = parser.parse_args()
    args.only = (
        args.only.split(",")
        if args.only
        else [key for key in SCENARIOS if key != "before" or args.before]
    )
    unknown = [key for key in args.only if key not in SCENARIOS]
    if "before" in args.only and not args.before:
        parser.error("the scenario before needs --before PROGRAM")
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are: {' '.join(SCENARIOS)}")
    args.binary, args.examples = args.programs / "token-shield", args.programs / "examples"
    return args


def prepare(args):
    if not shutil.which("taskset"):
        raise Trouble("taskset is not installed: apt-get install util-linux")
    cores = os.sched_getaffinity(0)
    if args.proxy_core == args.load_core or not {args.proxy_core, args.load_core} <= cores:
        raise Trouble(
            "two different cores are needed for --proxy-core and --load-core; this process may "
            f"use {sorted(cores)}"
        )
    if not args.no_build:
        subprocess.run(
            ["cargo", "build", "--release", "--bins", "--examples"], cwd=ROOT, check=True
        )


def run(args, processes, folder):
    wanted = {SCENARIOS[key][1] for key in args.only}
    command = [example(args, "upstream"), "--chunks", args.chunks, "--pace-ms", args.pace_ms]
    upstream = spoken_address(processes.start(command, args.load_core, stdout=subprocess.PIPE))
    tokens = mint(args, folder) if any(SCENARIOS[key][2] for key in args.only) else {}
    proxies = {}
    for name, access_log in (("nginx", False), ("nginx-log", True)):
        if name in wanted:
            proxies[name] = start_nginx(processes, args, folder, upstream, name, access_log)
    if "bare" in wanted:
        proxies["bare"] = start_bare(processes, args, upstream)
    for name, cache, binary in (
        ("cached", 65536, args.binary),
        ("cold", 0, args.binary),
        ("before", 65536, args.before),
    ):
        if name in wanted:
            proxies[name] = start_token_shield(
                processes, args, folder, upstream, name, cache, binary
            )
    about = facts(args)
    rows = summary(rounds(args, upstream, proxies, tokens))
    memory = {name: proxy.rss_kib() for name, proxy in proxies.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{about['date'][:10]}-{about['commit']}"
    text = markdown(about, rows, memory)
    if args.publish:
        publish(text)
    stem.with_suffix(".md").write_text(text)
    stem.with_suffix(".json").write_text(
        json.dumps({**about, "rss_kib": memory, "scenarios": rows}, indent=1) + "\n"
    )
    print(text)
    print(f"written: {stem}.md and .json", file=sys.stderr)


def main():
    args = words()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job would ignore the signal
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(1))
    processes = Processes()
    try:
        prepare(args)
        with tempfile.TemporaryDirectory(prefix="token-shield-loadtest-") as folder:
            try:
                run(args, processes, pathlib.Path(folder))
            finally:
                processes.stop()
    except KeyboardInterrupt:
        sys.exit("stopped; what was started has been ended")
    except (Trouble, subprocess.SubprocessError) as trouble:
        sys.exit(f"loadtest: {trouble}")


if __name__ == "__main__":
    main()
