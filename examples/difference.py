#!/usr/bin/env python3
"""The largest difference of two files of float32 logits must lie between two bounds; what is not a number fails.

    difference.py A.f32 B.f32 MIN MAX
"""
import array
import math
import sys

if len(sys.argv) != 5:
    sys.exit(__doc__)
low, high = float(sys.argv[3]), float(sys.argv[4])
a, b = array.array("f"), array.array("f")
for values, path in ((a, sys.argv[1]), (b, sys.argv[2])):
    with open(path, "rb") as f:
        values.frombytes(f.read())
if not a or len(a) != len(b):
    sys.exit("difference.py: %d and %d values" % (len(a), len(b)))
if not all(map(math.isfinite, a)) or not all(map(math.isfinite, b)):
    sys.exit("difference.py: NaN or infinity among the logits")
most = max(abs(x - y) for x, y in zip(a, b))
print("largest difference of logits %g, allowed %g to %g" % (most, low, high))
sys.exit(0 if low <= most <= high else 1)
