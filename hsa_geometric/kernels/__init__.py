"""Backends of the operators, one module or package each; none imports another.

=============  ==================================================================================
``reference``  dense, written to be obviously right: the oracle
``eager``      tensor code on any device: ``backend='torch'``
=============  ==================================================================================
"""
