"""Speed, accuracy, memory and endurance of the kernels beside what a user would pick instead."""
