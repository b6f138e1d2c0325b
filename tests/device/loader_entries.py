"""The boot loader's entries as ostree writes them, for the fakes and for the machine around them."""

import os


def write_loader_entries(root: str, deployments: list[str]) -> None:
    """Write an entry below ROOT for each of DEPLOYMENTS (CHECKSUM.SERIAL), the
    highest number for the first.
    """
    folder = f"{root}/boot/loader/entries"
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    for index, name in enumerate(deployments):
        link = f"{root}/sysroot/ostree/boot.1/veilor/{name}/0"
        if not os.path.islink(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(f"{root}/sysroot/ostree/deploy/veilor/deploy/{name}", link)
        number = len(deployments) - index
        with open(f"{folder}/ostree-{number}.conf", "w") as file:
            file.write(
                f"title veilor-os (ostree:{index})\noptions rw ostree=/ostree/boot.1/veilor/{name}/0\n"
            )
