"""Carriers: what moves VTL's datagrams between two hosts."""
