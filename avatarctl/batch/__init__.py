"""Render many videos, from a folder of recordings or a manifest, with workers of this machine or a cluster.

Begin with run.py. rows.py reads, items.py checks, plan.py orders, history.py knows what is finished, work.py makes one video,
local.py and cluster.py spread the work, tally.py tells.
"""
