"""Prepare, segment (windows, stitched) and restore a scan; many scans; the files that prediction writes."""
