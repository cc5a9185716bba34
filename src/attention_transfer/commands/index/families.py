"""Families of recipes: the first word of their names, and what belongs to it."""

FAMILIES = {
    "digits": "cluttered digits, on any machine in minutes: teachers, students alone, every method",
    "cifar100": "CIFAR-100: networks alone, and TEACHER-STUDENT-METHOD under CAT-KD's protocol",
    "photographs": "photographs in class folders of your own",
    "at": "Paying More Attention to Attention (AT): CIFAR-10, ImageNet, CUB, scenes",
    "cat": "Class Attention Transfer (CAT-KD): its tables and figures by number",
    "imagenet": "ImageNet: networks alone, and TEACHER-STUDENT-METHOD",
    "deit": "DeiT: distillation tokens, and students alone",
    "links": "attention links (AFD): its tables by number",
    "mhgd": "multi-head graph distillation (MHGD): pairs, heads, layers, controls",
    "vit": "attention copy and distillation of vision transformers, fine-tuning and from scratch",
}


def family(recipe: str) -> str:
    """The family of a recipe."""
    return recipe.partition("-")[0]
