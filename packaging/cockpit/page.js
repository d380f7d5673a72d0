// The page of cockpit: methods, their modes, and the three actions, over org.xen.xcp.gateway on the system bus.
"use strict";

const ROOT = "/org/xen/xcp/gateway";
const CONTROL = "org.xen.xcp.gateway.Control1";
const METHOD = "org.xen.xcp.gateway.Method1";
const MOST = 500; // rows
const LONGEST_LOG = 200; // changes

const bus = cockpit.dbus("org.xen.xcp.gateway", { bus: "system", superuser: "try" });
const methods = new Map(); // "service/method" -> values of its properties
const at = (name) => document.getElementById(name);

function tell(text, bad = false) {
    at("state").textContent = text;
    at("state").className = bad ? "bad" : "";
}

function row(name, values) {
    const share = values.Comparisons ? `${(values.EqualShare * 100).toFixed(1)}% of ${values.Comparisons}` : "-";
    const mode = values.Mode === "canary" ? `canary ${values.Percent}%` : values.Mode;
    const line = document.createElement("tr");
    const cells = [name, mode, values.SetBy, share, `${values.LegacyErrors} / ${values.DbusErrors}`, values.Verdict];
    for (const text of cells) line.insertCell().textContent = text; // never as HTML: some of it comes from clients
    line.addEventListener("click", () => { at("mode").pattern.value = name; });
    return line;
}

function show() {
    const wanted = at("filter").value.toLowerCase();
    const found = [...methods.keys()].filter((name) => name.toLowerCase().includes(wanted)).sort();
    at("methods").replaceChildren(...found.slice(0, MOST).map((name) => row(name, methods.get(name))));
    at("more").textContent = found.length > MOST ? `${found.length - MOST} more; the filter finds them` : "";
}

async function load() {
    try {
        const [objects] = await bus.call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", []);
        methods.clear();
        for (const interfaces of Object.values(objects)) {
            if (!interfaces[METHOD]) continue;
            const values = Object.fromEntries(Object.entries(interfaces[METHOD]).map(([name, value]) => [name, value.v]));
            methods.set(`${values.Service}/${values.Name}`, values);
        }
        show();
        tell(`${methods.size} methods`);
    } catch (error) {
        const off = error.problem === "not-found" || error.name === "org.freedesktop.DBus.Error.ServiceUnknown";
        tell(off ? 'The gateway is not on the system bus: set bus = "system" in [admin] of its config.' : error.message, true);
    }
}

async function act(event) {
    event.preventDefault();
    const form = event.target;
    const [pattern, why] = [form.pattern.value.trim(), form.why.value.trim()];
    const action = event.submitter ? event.submitter.value : "set";
    if (!why) {
        tell("The reason is missing; the audit keeps it.", true);
        return;
    }
    const percent = form.percent.value.trim();
    const options = percent ? { percent: cockpit.variant("s", percent) } : {};
    const calls = {
        set: ["SetMode", [pattern, form.mode.value, options, why], "ssa{sv}s"],
        clear: ["ClearMode", [pattern, why], "ss"],
        back: ["RollbackAll", [why], "s"],
    };
    const [member, values, type] = calls[action];
    try {
        const [moved] = await bus.call(ROOT, CONTROL, member, values, { type });
        const told = moved.map(([service, method, before, after]) => `${service}/${method}: ${before} -> ${after}`);
        await load();
        tell(told.slice(0, 5).join("; ") + (told.length > 5 ? ` and ${told.length - 5} more` : "") || "nothing has changed");
        form.why.value = "";
    } catch (error) {
        tell(error.message, true);
    }
}

function note(text) {
    const line = document.createElement("li");
    line.textContent = `${new Date().toLocaleTimeString()} ${text}`;
    at("log").prepend(line);
    while (at("log").children.length > LONGEST_LOG) at("log").lastChild.remove();
}

bus.subscribe({ interface: CONTROL }, (_path, _interface, member, values) => {
    if (member === "ModeChanged") {
        const [service, method, before, after, who] = values;
        note(`${service}/${method}: ${before} -> ${after} (${who})`);
    } else if (member === "RolledBack") {
        note(`${values[0]} rolled back by ${values[1]}: ${values[2]}`);
    }
    load();
});
at("filter").addEventListener("input", show);
at("mode").addEventListener("submit", act);
load();
