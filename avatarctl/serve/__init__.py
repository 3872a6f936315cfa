"""Serve the queue of renders on this machine as an API in the shape of /v1/videos, and as a page.

Begin with house.py (what a server consists of). jobs.py: a job as files; supervisor.py: the workers; api_*.py: the verbs;
access.py, incoming.py and checking.py: what strangers may do; live.py: the view of a render at work; page/: the page.
"""
