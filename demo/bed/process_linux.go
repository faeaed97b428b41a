package bed

import (
	"os/exec"
	"syscall"
)

// tieToParent lets a server die with the bed, also when the bed is killed. In a
// process group of its own it does not see the terminal's ctrl-C: the bed ends
// its connections first.
func tieToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
