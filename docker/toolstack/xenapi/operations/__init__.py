"""What the messages of XenAPI do to the store: a module for each area, and rules for what only changes fields."""

from xenapi.operations import appliances, devices, hosts, misc, networks, pools, storage, vm_settings, vms
from xenapi.operations.registry import OPERATIONS, Pool, answers, call

# Each of these registers its operations when it is imported.
AREAS = (appliances, devices, hosts, misc, networks, pools, storage, vm_settings, vms)

__all__ = ["AREAS", "OPERATIONS", "Pool", "answers", "call"]
