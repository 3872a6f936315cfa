"""Takes this machine, gives what a render needs of it, found or missing; torch is looked at in a process of its own."""
