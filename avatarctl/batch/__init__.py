"""Takes a folder of recordings or a manifest, gives all their videos: by workers of this machine or a cluster, durably.

Begin with run.py. rows.py reads, items.py checks, plan.py orders, history.py knows what is finished, work.py makes one video,
local.py and cluster.py spread the work, tally.py tells.
"""
