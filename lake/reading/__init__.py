"""What must hold before a committed file is read: its bytes compared with its record, damage named, rows chosen."""
