"""XML-RPC servers of others, as processes: Python's xmlrpc.server, Perl's RPC::XML::Server, PHP's and Ruby's.

Each has the methods of METHODS, which give back their argument, and `fail`, which refuses with fault 7.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PYTHON = """\
import sys
from xmlrpc.server import SimpleXMLRPCServer
from xmlrpc.client import Fault
server = SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False, use_builtin_types=True)
for name in sys.argv[1:]:
    server.register_function(lambda value: value, name)
def fail(name, text):
    raise Fault(7, text)
server.register_function(fail)
print("port", server.server_address[1], flush=True)
server.serve_forever()
"""

PERL = """\
use RPC::XML; use RPC::XML::Server;
my %made = (echo_text => 'string', echo_integer => 'int', echo_ratio => 'double', echo_flag => 'boolean',
    echo_bytes => 'base64', echo_date => 'datetime_iso8601');
my $server = RPC::XML::Server->new(host => '127.0.0.1', port => 0, no_default => 1);
for my $name (@ARGV) {
    my $class = $made{$name};
    my $code = sub { $class ? "RPC::XML::$class"->new($_[0]) : $_[0] };
    my $type = {echo_list => 'array', echo_record => 'struct', echo_date => 'dateTime.iso8601'}->{$name} || $class;
    $server->add_procedure({name => $name, signature => ["$type $type"], code => $code});
}
my $fail = sub { RPC::XML::fault->new(7, $_[1]) };
$server->add_procedure({name => 'fail', signature => ['string string string'], code => $fail});
$| = 1;
print "port ", $server->{__daemon}->sockport, "\\n";
$server->server_loop;
"""

PHP = """\
<?php
$server = xmlrpc_server_create();
foreach (explode(' ', getenv('METHODS')) as $name)
    xmlrpc_server_register_method($server, $name, 'same');
function same($method, $params) { return $params[0]; }
function fail($method, $params) { return ['faultCode' => 7, 'faultString' => $params[1]]; }
xmlrpc_server_register_method($server, 'fail', 'fail');
header('Content-Type: text/xml');
$how = ['encoding' => 'UTF-8', 'escaping' => 'markup'];
echo xmlrpc_server_call_method($server, file_get_contents('php://input'), null, $how);
"""

RUBY = """\
require 'xmlrpc/server'
server = XMLRPC::Server.new(0, '127.0.0.1', 4, File.open(File::NULL, 'w'))
ARGV.each do |name|
  server.add_handler(name) { |value| name == 'echo_bytes' ? XMLRPC::Base64.new(value) : value }
end
server.add_handler('fail') { |name, text| raise XMLRPC::FaultException.new(7, text) }
$stdout.sync = true
puts "port #{server.instance_variable_get(:@server).listeners[0].addr[1]}"
server.serve
"""

METHODS = (
    "echo_text", "echo_integer", "echo_ratio", "echo_flag", "echo_bytes", "echo_date", "echo_list", "echo_record",
)  # fmt: skip


@dataclass(frozen=True)
class OtherServer:
    """How one is run: `check` succeeds where its libraries are here; the address is found in what it writes."""

    program: str
    source: str
    check: Sequence[str] = ()

    def command(self, file: Path) -> Sequence[str]:
        if self.program == "php":
            return ("php", "-S", "127.0.0.1:0", str(file))
        return (self.program, str(file), *METHODS)


OTHER_SERVERS: Mapping[str, OtherServer] = {
    "python": OtherServer(sys.executable, PYTHON),
    "perl": OtherServer("perl", PERL, ("perl", "-MRPC::XML::Server", "-MHTTP::Daemon", "-e", "1")),
    "php": OtherServer("php", PHP, ("php", "-r", "exit((int) !function_exists('xmlrpc_server_create'));")),
    "ruby": OtherServer("ruby", RUBY, ("ruby", "-rxmlrpc/server", "-e", "1")),
}
_PORT = re.compile(r"port (\d+)|http://127\.0\.0\.1:(\d+)")


@contextmanager
def other_server(name: str, folder: Path) -> Iterator[str]:
    """Run one; the value is its URL. The test is skipped where it is not installed."""
    server = OTHER_SERVERS[name]
    if shutil.which(server.program) is None or (
        server.check and subprocess.run(server.check, capture_output=True, check=False).returncode
    ):
        pytest.skip(f"{name}'s XML-RPC server is not here; `make day-one` installs it")
    file = folder / f"server-{name}"
    file.write_text(server.source)
    environment = {"PATH": "/usr/bin:/bin", "METHODS": " ".join(METHODS), "LC_ALL": "C.UTF-8", "PERL_HASH_SEED": "0"}
    with subprocess.Popen(
        server.command(file), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            yield f"http://127.0.0.1:{_port(process)}"
        finally:
            process.kill()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        found = _PORT.search(line)
        if found is not None:
            return int(found[1] or found[2])
    raise AssertionError(f"the server did not start: {said}")
