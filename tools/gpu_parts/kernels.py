"""Sums the lines of ENGINE_TRACE=1 by operator, for the last step: kernels.py TRACE TABLE

A step ends with its fourth `adam`, one for each network; without any, all lines are taken together. The table is
tab-separated: operator, calls, microseconds, share. Its last line, the sum, is printed last.
"""
import re
import sys
from collections import defaultdict

LINE = re.compile(r"^(\w+)\s.*<-.*  (\d+) µs  ")
NETWORKS = 4


def main():
    source, table = sys.argv[1:]
    rows = [(m[1], int(m[2])) for m in map(LINE.match, open(source, errors="replace")) if m]
    ends = [at + 1 for at, (name, _) in enumerate(rows) if name == "adam"][NETWORKS - 1::NETWORKS]
    if len(ends) >= 2:
        rows = rows[ends[-2]:ends[-1]]
    if not rows:
        sys.exit(f"{source} holds no line of a trace")
    sums = defaultdict(lambda: [0, 0])
    for name, microseconds in rows:
        sums[name][0] += 1
        sums[name][1] += microseconds
    whole = sum(us for _, us in sums.values())
    with open(table, "w") as out:
        print("operator\tcalls\tmicroseconds\tshare", file=out)
        for name, (calls, us) in sorted(sums.items(), key=lambda item: -item[1][1]):
            line = f"{name}\t{calls}\t{us}\t{us / max(whole, 1):.3f}"
            print(line, file=out)
            print(line.expandtabs(28))
    print(f"{len(rows)} operators, {whole / 1e3:.1f} ms")


main()
