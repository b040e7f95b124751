from pathlib import Path
def write(r): return Path("x")
def plain(r): return ""
