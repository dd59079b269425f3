"""Tests of survival that take minutes: kill -9, full disks, lost processes, hostile files. See docs/reliability.md."""
