"""D-Bus without a bus: signatures, names, marshalling, and a call turned into a message body and back."""
