"""XenGarden, a wrapper of XenAPI from PyPI: a VM from a template, its power states by tasks, a snapshot, its end.

python xengarden_vm.py URL
"""

import asyncio
import sys

from XenGarden.Host import Host
from XenGarden.session import create_session
from XenGarden.VM import VM

session = create_session("pool", {"pool": {"host": sys.argv[1], "username": "root", "password": "xenroot"}})


async def main() -> None:
    """Do everything; an assertion fails where an answer is wrong."""
    assert sorted(host.get_name() for host in Host.list_host(session)) == ["xcp-1", "xcp-2"]
    template = next(each for each in VM.list_templates(session) if each.get_name() == "Debian Bookworm 12")
    vm = await template.clone("made by XenGarden")
    await vm.provision()
    vm.set_description("a wrapper")
    vm.set_vCPUs(4)
    assert (vm.get_name(), vm.get_description(), vm.get_vCPUs()) == ("made by XenGarden", "a wrapper", "4")
    for act, state in (
        (vm.start, "Running"),
        (vm.pause, "Paused"),
        (vm.unpause, "Running"),
        (vm.reboot, "Running"),
        (vm.suspend, "Suspended"),
        (vm.force_shutdown, "Halted"),
    ):
        assert await act(), act
        assert vm.get_power_state() == state, (act, vm.get_power_state())
    assert len(vm.get_VBDs()) == 1
    assert await vm.snapshot("first")
    assert len(vm.get_record()["snapshots"]) == 1
    await vm.delete()
    assert "made by XenGarden" not in [each.get_name() for each in VM.list_vm(session)]


asyncio.run(main())
