#%Module1.0
# Environment Modules: copy to MODULEPATH as mpinewton/0.1.0, and set root to a virtual environment with mpinewton in it:
#   module load openmpi && python3 -m venv ROOT && ROOT/bin/pip install mpinewton
proc ModulesHelp { } {
    puts stderr "Second-order distributed optimisation over MPI. mpinewton --help and mpinewton doctor tell more."
}
module-whatis "second-order distributed optimisation over MPI"

set root /opt/mpinewton/0.1.0

prereq openmpi
prepend-path PATH $root/bin
