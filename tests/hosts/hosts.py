#!/usr/bin/env python3
"""Several pretended hosts on one machine, with real TCP between them.

    tests/hosts/hosts.py [--hosts 3] [--ranks 2] [--rate 1gbit] -- PROGRAM ARGS...

runs the program under mpiexec with --ranks ranks on each host (or "--ranks 3,1,2"), and ends with
its status. In Python:

    with Hosts(3, rate="1gbit") as hosts:
        hosts.mpiexec([program, ...], ranks=2, check=True)

A host is a network namespace behind a switch (a bridge), a host name, its own /dev/shm, and an
/etc/hosts in which all hosts are named; processes see one file system. `rate` limits what a host
sends and what it receives, each.

All of it hangs on one process, the keeper, which is the first of its own space of process ids: when
it ends, the kernel ends every process of every host, and with the last of them go namespaces, links
and memory. It ends when its standard input does, so also when its owner is killed. Nothing has a
name outside, and nothing is written to disk, so runs at the same time do not meet.

    owner -- keeper: namespace of the switch: bridge br0, ports p1, p2, ...
               |-- host1: eth0 10.77.0.1, lo    \
               |-- host2: eth0 10.77.0.2, lo     } a sleeping process each
               `-- ...                          /

Exit status 77 where such namespaces cannot be made."""
import argparse
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys

SKIP = 77
HERE = os.path.abspath(__file__)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
TABLE = "TANDEM_TEST_HOSTS"  # for the launch agent: "host1=PID host2=PID ..."


class Unavailable(Exception):
    """One sentence: why there are no pretended hosts here."""


# --- the keeper ---

def call(*words):
    done = subprocess.run(words, text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")


def inside(pid):
    return ["nsenter", "-t", str(pid), "--net", "--uts", "--mount", "--"]


def limit(prefix, device, rate):
    call(*prefix, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst",
         "256kb", "latency", "50ms")


def make_host(k, count, rate):
    """Returns the id of a sleeping process in the new host's namespaces."""
    sleeper = subprocess.Popen(
        ["unshare", "--net", "--uts", "--mount", "sh", "-c", "echo made; exec sleep infinity"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if sleeper.stdout.readline() != "made\n":
        raise RuntimeError("unshare made no namespaces")
    names = "".join(f"10.77.0.{i} host{i}\\n" for i in range(1, count + 1))
    prefix = inside(sleeper.pid)
    call("ip", "link", "add", f"p{k}", "type", "veth", "peer", "name", "eth0", "netns",
         str(sleeper.pid))
    call("ip", "link", "set", f"p{k}", "master", "br0", "up")
    call(*prefix, "sh", "-ec", f"""
        hostname host{k}
        ip link set lo up
        ip address add 10.77.0.{k}/24 dev eth0
        ip link set eth0 up
        mount -t tmpfs tmpfs /dev/shm
        printf '127.0.0.1 localhost\\n{names}' >/dev/shm/hosts
        mount --bind /dev/shm/hosts /etc/hosts""")
    if rate:
        limit(prefix, "eth0", rate)
        limit([], f"p{k}", rate)
    return sleeper.pid


def keep(count, rate):
    """Makes the hosts, says who they are, and buries the dead until standard input ends."""
    try:
        call("ip", "link", "add", "br0", "type", "bridge")
        call("ip", "link", "set", "br0", "up")
        pids = [make_host(k, count, rate) for k in range(1, count + 1)]
    except (OSError, RuntimeError) as e:
        print(json.dumps({"error": str(e)}), flush=True)
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waker, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    print(json.dumps({"pids": pids}), flush=True)
    while True:
        ready = select.select([0, waker], [], [])[0]
        if 0 in ready and not os.read(0, 1):
            return 0
        if waker in ready:
            os.read(waker, 4096)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass


# --- the owner ---

def find_mpiexec():
    """Beside the mpicc that setup.sh has chosen, else on the path."""
    chosen = os.path.join(ROOT, ".deps", "mpicc")
    if os.path.exists(chosen):
        with open(chosen) as f:
            beside = os.path.join(os.path.dirname(f.read().strip()), "mpiexec")
        if os.access(beside, os.X_OK):
            return beside
    return shutil.which("mpiexec")


class Hosts:
    """`count` hosts, named host1, host2, ... Raises Unavailable."""

    def __init__(self, count=3, rate=None, mpiexec=None):
        self.count, self.rate = count, rate
        self.program = mpiexec or find_mpiexec()
        self.keeper = None
        self.running = []

    def __enter__(self):
        if os.getuid() != 0:
            raise Unavailable("pretended hosts need root, to make network namespaces")
        for name in ["unshare", "nsenter", "ip", "mount"] + (["tc"] if self.rate else []):
            if not shutil.which(name):
                raise Unavailable(f"pretended hosts need the program {name}")
        if not self.program:
            raise Unavailable("pretended hosts need an mpiexec")
        words = ["unshare", "--net", "--mount", "--pid", "--kill-child", "--mount-proc",
                 sys.executable, HERE, "--keep", str(self.count), self.rate or ""]
        self.keeper = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            line = self.keeper.stdout.readline()
            told = json.loads(line) if line else {"error": self.keeper.stderr.read().strip()}
        except BaseException:
            self.close()
            raise
        if "error" in told:
            self.close()
            raise Unavailable(f"pretended hosts cannot be made: {told['error']}")
        self.pids = told["pids"]
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends every process of every host."""
        keeper, self.keeper = self.keeper, None
        if not keeper:
            return
        keeper.stdin.close()
        try:
            keeper.wait(10)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        for job in self.running:
            job.wait()
        keeper.stdout.close()
        keeper.stderr.close()

    def on(self, host, words):
        """The command line that runs `words` on host 1, 2, ... from outside."""
        ns = f"/proc/{self.keeper.pid}/ns/"
        return ["nsenter", f"--pid={ns}pid_for_children", f"--mount={ns}mnt", "--",
                *inside(self.pids[host - 1]), "sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(),
                *words]

    def link(self, host, up):
        """Plugs the cable of host 1, 2, ... in, or pulls it out."""
        subprocess.run(["nsenter", "-t", str(self.keeper.pid), "--net", "--", "ip", "link", "set",
                        f"p{host}", "up" if up else "down"], check=True, timeout=30)

    def lose(self, host):
        """Ends every process of host 1, 2, ... at once, and with the last of them the host."""
        subprocess.run(self.on(host, [sys.executable, HERE, "--lose"]), check=False, timeout=30,
                       stdin=subprocess.DEVNULL)

    def command(self, words, each, options=()):
        """The command line of mpiexec on host 1, with each[k] ranks on host k + 1."""
        used = [f"host{k + 1}:{n}" for k, n in enumerate(each) if n]
        return self.on(1, [
            self.program, "--host", ",".join(used), "-n", str(sum(each)), "--map-by",
            ":OVERSUBSCRIBE", "--bind-to", "none", "--prtemca", "plm_ssh_agent",
            f"{sys.executable} {HERE} --agent", "--prtemca", "prte_if_include", "eth0", "--mca",
            "btl_tcp_if_include", "eth0", "--mca", "pml", "ob1", "--mca", "osc", "^ucx", *options,
            *words])

    def environment(self, ranks, env=None):
        env = dict(os.environ if env is None else env)
        if ranks > (os.cpu_count() or 1):  # each host thinks that all cores are its own
            env.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
        env[TABLE] = " ".join(f"host{k + 1}={pid}" for k, pid in enumerate(self.pids))
        env["TMPDIR"] = "/dev/shm"
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT"):
            env[name] = env[name + "_CONFIRM"] = "1"
        return env

    def mpiexec(self, words, ranks=2, options=(), env=None, timeout=None, check=False, **how):
        """As subprocess.run: the program on all hosts, with so many ranks on each (or a list). An
        exception ends the hosts and all that runs there."""
        how.setdefault("stdin", subprocess.DEVNULL)
        each = ranks if isinstance(ranks, (list, tuple)) else [ranks] * self.count
        words = self.command([str(w) for w in words], each, options)
        with subprocess.Popen(words, env=self.environment(sum(each), env), **how) as job:
            self.running.append(job)
            try:
                out, err = job.communicate(timeout=timeout)
            except BaseException:
                self.close()
                raise
            self.running.remove(job)
        if check and job.returncode != 0:
            raise subprocess.CalledProcessError(job.returncode, words, out, err)
        return subprocess.CompletedProcess(words, job.returncode, out, err)


# --- the command ---

def agent(host, words):
    """Stands for ssh: mpiexec gives a host and a command for its shell."""
    table = dict(pair.split("=") for pair in os.environ[TABLE].split())
    if host not in table:
        sys.exit(f"hosts: no host {host} among {' '.join(table)}")
    words = [*inside(table[host]), "sh", "-c", " ".join(words)]
    os.execvp(words[0], words)


def lose():
    """Kills whoever shares this process's network."""
    mine = os.readlink("/proc/self/ns/net")
    for _ in range(3):  # those that were just being made, too
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                if pid != os.getpid() and os.readlink(f"/proc/{pid}/ns/net") == mine:
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                pass


def reach(host):
    """Whether a host answers at all: its refusal of a connection will do."""
    try:
        socket.create_connection((host, 9), timeout=1).close()
    except ConnectionRefusedError:
        pass
    except OSError:
        return 1
    return 0


def main():
    if sys.argv[1:2] == ["--reach"]:
        return reach(sys.argv[2])
    if sys.argv[1:2] == ["--lose"]:
        return lose()
    if sys.argv[1:2] == ["--keep"]:
        return keep(int(sys.argv[2]), sys.argv[3])
    if sys.argv[1:2] == ["--agent"]:
        return agent(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--hosts", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--ranks", default="2", help="on each host: 2, or 3,1,2 (default 2)")
    parser.add_argument("--rate", help="of each host's link, such as 1gbit (default unlimited)")
    parser.add_argument("--mpiexec", help="the mpiexec to use")
    parser.add_argument("program", nargs="+", metavar="PROGRAM ...")
    args = parser.parse_args()
    try:
        ranks = [int(n) for n in args.ranks.split(",")]
    except ValueError:
        parser.error(f"--ranks {args.ranks}: numbers are needed")
    if not 1 <= args.hosts <= 200 or len(ranks) not in (1, args.hosts) or min(ranks) < 0:
        parser.error("--hosts 1 to 200; --ranks one number, or one for each host")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with Hosts(args.hosts, args.rate, args.mpiexec) as hosts:
            each = ranks * args.hosts if len(ranks) == 1 else ranks
            code = hosts.mpiexec(args.program, each).returncode
            return code if code >= 0 else 128 - code
    except Unavailable as e:
        print(f"hosts: {e}", file=sys.stderr)
        return SKIP
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
