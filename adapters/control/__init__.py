"""What operators come over, besides the control socket: name -> class."""

from adapters.control import dbus

CONTROLS = {"dbus": dbus.Service}
