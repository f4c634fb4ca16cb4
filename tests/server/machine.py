"""How busy the machine is with what is not ours: measurements on busy machines say so, wait, or are not taken."""
import os
import time


class Others:
    """What processes other than this one and `pids` take of the machine, 1.0 = all of it."""

    def __init__(self, pids):
        self.pids = pids
        self.start()

    def start(self):
        self.begin = self.look()

    def look(self):
        with open("/proc/stat") as f:
            ticks = [int(n) for n in f.readline().split()[1:9]]
        ours = sum(os.times()[:2]) * os.sysconf("SC_CLK_TCK")
        for pid in self.pids:
            with open(f"/proc/{pid}/stat") as f:
                ours += sum(int(n) for n in f.read().rsplit(")", 1)[1].split()[11:13])
        return sum(ticks) - ticks[3] - ticks[4] - ours, sum(ticks)

    def share(self):
        """Since start()."""
        busy, all_ticks = (b - a for a, b in zip(self.begin, self.look()))
        return max(0, busy / max(1, all_ticks))

    def wait(self, seconds):
        """Until they leave the machine alone, at most so long; then starts."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.start()
            time.sleep(2)
            if self.share() < 0.05:
                break
        self.start()
