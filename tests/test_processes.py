"""A process's name: it lives while the process does, and no later process can carry it."""

import os
import subprocess
import sys

from sat_optuna.processes import is_dead, worker_name


def test_a_process_is_alive_until_it_ends():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = worker_name(child.pid)
    assert not is_dead(name)
    child.kill()
    child.communicate()
    assert is_dead(name)


def test_a_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = worker_name(child.pid)
    child.kill()
    # Wait for the end without collecting it: the process stays a zombie.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(name)
    child.communicate()


def test_a_number_given_out_again_is_another_process():
    host, pid, start = worker_name().split("/")
    assert not is_dead(f"{host}/{pid}/{start}")
    assert is_dead(f"{host}/{pid}/{start}0")


def test_nobody_can_know_of_another_machine_or_of_no_name():
    _, pid, start = worker_name().split("/")
    assert not is_dead(f"elsewhere/{pid}/{start}0")
    assert not is_dead("")
    assert not is_dead("nonsense")
